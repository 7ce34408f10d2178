/*
 * knights - count the open knight's tours of a board.
 *
 * Long tasks of very different length, and hardly any data. A task counts the
 * tours that begin with a given sequence of moves, and where they end.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <taskrt/taskrt.h>

#include "common/example.h"

#define MAX_SIDE 8
#define MAX_SQUARES (MAX_SIDE * MAX_SIDE)

/* The tours that begin with the first squares of path. */
struct beginning {
	uint8_t path[MAX_SQUARES];
	uint8_t tour[MAX_SQUARES];  /* result: one of them, if there are any */
	uint64_t ends[MAX_SQUARES]; /* result: how many end there */
	uint64_t n_tours;           /* result */
};

static uint64_t n_rows = 5, n_cols = 6, depth = 3;
static int show;

static size_t n_squares;
static uint64_t all_squares;        /* a bit for each */
static uint64_t moves[MAX_SQUARES]; /* those a knight reaches from there */

static struct beginning
    *beginnings; /* shared: tasks write their results here */
static size_t n_beginnings;

/* --- the search --- */

static uint64_t
bit(unsigned square)
{
	return UINT64_C(1) << square;
}

static int
next_square(uint64_t *set)
{
	int square = __builtin_ctzll(*set);

	*set &= *set - 1;
	return square;
}

/*
 * Whether no tour can come when the knight has left `left` behind, squares it
 * could have gone to: one with no free neighbour is never visited, and one with a
 * single free neighbour is the tour's last.
 */
static int
is_dead(uint64_t left, uint64_t free_squares)
{
	int n_last = 0;

	while (left != 0) {
		uint64_t exits = moves[next_square(&left)] & free_squares;

		n_last += (exits & (exits - 1)) == 0;
		if (exits == 0 || n_last > 1)
			return 1;
	}
	return 0;
}

/* The knight is on path[n - 1]. */
static void
search(struct beginning *b, size_t n, uint64_t free_squares)
{
	uint8_t *path = b->path;
	uint64_t to = moves[path[n - 1]] & free_squares;

	if (free_squares == 0) {
		if (b->n_tours++ == 0)
			memcpy(b->tour, path, n);
		b->ends[path[n - 1]]++;
		return;
	}
	for (uint64_t rest = to; rest != 0;) {
		unsigned square = (unsigned)next_square(&rest);

		if (is_dead(to & ~bit(square), free_squares))
			continue;
		path[n] = (uint8_t)square;
		search(b, n + 1, free_squares & ~bit(square));
	}
}

/* The task. It searches in a copy on its own stack; the result is written once. */
static void
count_tours(size_t i, void *ctx)
{
	struct beginning *b = (struct beginning *)ctx + i, mine = *b;
	uint64_t free_squares = all_squares;

	for (size_t n = 0; n < depth; n++)
		free_squares &= ~bit(mine.path[n]);
	search(&mine, depth, free_squares);
	*b = mine;
}

static int
run(enum example_mode mode)
{
	if (mode != EXAMPLE_TASKRT)
		return example_loop(mode, 0, n_beginnings, 1, count_tours,
		                    beginnings);
	return taskrt_for(0, n_beginnings, count_tours, beginnings,
	                  &(struct taskrt_options){.name = "knights"});
}

/* --- what to search --- */

static void
find_moves(void)
{
	static const int jumps[8][2] = {{1, 2},   {2, 1},   {2, -1}, {1, -2},
	                                {-1, -2}, {-2, -1}, {-2, 1}, {-1, 2}};

	for (unsigned square = 0; square < n_squares; square++) {
		all_squares |= bit(square);
		for (int i = 0; i < 8; i++) {
			int row = (int)(square / n_cols) + jumps[i][0];
			int col = (int)(square % n_cols) + jumps[i][1];

			if (row >= 0 && row < (int)n_rows && col >= 0 &&
			    col < (int)n_cols)
				moves[square] |=
				    bit((unsigned)row * (unsigned)n_cols +
				        (unsigned)col);
		}
	}
}

/* All paths of `depth` squares that begin with the first n of path; with v NULL
 * they are only counted. */
static size_t
list_beginnings(struct beginning *v, uint8_t *path, size_t n)
{
	size_t count = 0;
	uint64_t to = all_squares;

	if (n == depth) {
		if (v != NULL)
			memcpy(v->path, path, n);
		return 1;
	}
	if (n > 0)
		to = moves[path[n - 1]];
	for (size_t i = 0; i < n; i++)
		to &= ~bit(path[i]);
	while (to != 0) {
		path[n] = (uint8_t)next_square(&to);
		count +=
		    list_beginnings(v != NULL ? v + count : NULL, path, n + 1);
	}
	return count;
}

static int
setup(void)
{
	uint8_t path[MAX_SQUARES];

	n_squares = n_rows * n_cols;
	if (depth > n_squares) {
		fprintf(stderr,
		        "knights: --depth %" PRIu64 " is more than the "
		        "board's %zu squares\n",
		        depth, n_squares);
		return -1;
	}
	find_moves();
	n_beginnings = list_beginnings(NULL, path, 0);
	beginnings = dsm_calloc(n_beginnings, sizeof(*beginnings));
	if (beginnings == NULL && n_beginnings > 0) {
		perror("knights");
		return -1;
	}
	list_beginnings(beginnings, path, 0);
	return 0;
}

static void
reset(void)
{
	for (size_t i = 0; i < n_beginnings; i++) {
		beginnings[i].n_tours = 0;
		memset(beginnings[i].ends, 0, sizeof(beginnings[i].ends));
	}
}

/* --- is it right? --- */

/* Directed open tours, as others have counted them. */
static const struct {
	unsigned rows, cols;
	uint64_t n_tours;
} known[] = {
    {3, 3, 0},   {3, 4, 16},   {4, 4, 0},
    {4, 5, 164}, {5, 5, 1728}, {6, 6, 6637920},
};

static int
contradicts_others(uint64_t n_tours)
{
	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
		if (((known[i].rows == n_rows && known[i].cols == n_cols) ||
		     (known[i].rows == n_cols && known[i].cols == n_rows)) &&
		    known[i].n_tours != n_tours)
			return 1;
	}
	return 0;
}

/*
 * A tour backwards is a tour, and so is its image in a mirror. Each of them has
 * been counted by another task.
 */
static int
is_symmetric(uint64_t (*tours)[MAX_SQUARES])
{
	for (size_t a = 0; a < n_squares; a++) {
		size_t left_right =
		    a / n_cols * n_cols + n_cols - 1 - a % n_cols;

		for (size_t b = 0; b < n_squares; b++) {
			size_t mirrored =
			    b / n_cols * n_cols + n_cols - 1 - b % n_cols;

			if (tours[a][b] != tours[b][a] ||
			    tours[a][b] != tours[left_right][mirrored])
				return 0;
		}
	}
	return 1;
}

static int
is_tour(const uint8_t *path)
{
	uint64_t visited = bit(path[0]);

	for (size_t i = 1; i < n_squares; i++) {
		if (!(moves[path[i - 1]] & bit(path[i])))
			return 0;
		visited |= bit(path[i]);
	}
	return (size_t)__builtin_popcountll(visited) == n_squares;
}

static int
check(char *text, size_t size)
{
	static uint64_t tours[MAX_SQUARES][MAX_SQUARES]; /* from, to */
	uint64_t n_tours = 0, n_bad = 0;

	memset(tours, 0, sizeof(tours));
	for (size_t i = 0; i < n_beginnings; i++) {
		const struct beginning *b = &beginnings[i];

		n_tours += b->n_tours;
		n_bad += b->n_tours > 0 && !is_tour(b->tour);
		for (size_t to = 0; to < n_squares; to++)
			tours[b->path[0]][to] += b->ends[to];
	}
	snprintf(text, size,
	         "%" PRIu64 " open tours of %" PRIu64 " x %" PRIu64
	         " squares, in %zu tasks",
	         n_tours, n_rows, n_cols, n_beginnings);
	return n_bad == 0 && is_symmetric(tours) && !contradicts_others(n_tours)
	           ? 0
	           : -1;
}

/* The squares in the order of their visit. */
static void
print_tour(const uint8_t *path)
{
	unsigned order[MAX_SQUARES];

	for (size_t i = 0; i < n_squares; i++)
		order[path[i]] = (unsigned)i + 1;
	for (size_t i = 0; i < n_squares; i++)
		printf("%4u%s", order[i], (i + 1) % n_cols == 0 ? "\n" : "");
}

static int
finish(void)
{
	size_t i = 0;

	while (i < n_beginnings && beginnings[i].n_tours == 0)
		i++;
	if (show && i < n_beginnings)
		print_tour(beginnings[i].tour);
	else if (show)
		printf("there is no tour to show\n");
	dsm_free(beginnings);
	return 0;
}

int
main(int argc, char **argv)
{
	static const struct example_option options[] = {
	    {"rows", "N", "of the board", .number = &n_rows, .min = 3,
	     .max = MAX_SIDE},
	    {"columns", "N", "of the board", .number = &n_cols, .min = 3,
	     .max = MAX_SIDE},
	    {"depth", "N", "a task for each way to visit so many squares",
	     .number = &depth, .min = 1, .max = 8},
	    {"show", NULL, "print a tour", .flag = &show},
	    {0},
	};
	static const struct example knights = {
	    .name = "knights",
	    .summary = "Count the open knight's tours of a board.",
	    .options = options,
	    .setup = setup,
	    .reset = reset,
	    .run = run,
	    .check = check,
	    .finish = finish,
	};

	return example_main(&knights, argc, argv);
}
