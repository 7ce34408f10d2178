/*
 * prototein - fold a chain of hydrophobic (H) and polar (P) links on a square
 * lattice so that as many H as possible touch: the best of all foldings.
 *
 * Branch and bound, with a running best. Tasks cannot tell each other what they
 * have found; they tell the program, which runs them in bunches: a bunch begins
 * with the best of those before it. The score in the middle of a search costs a
 * few loads from an array on the task's stack.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <taskrt/taskrt.h>

#include "common/example.h"

#define MAX_LINKS 48
#define SIDE 128 /* of the lattice: a power of two, room on all sides */
#define MIDDLE (SIDE * SIDE / 2 + SIDE / 2)
#define EXHAUSTIVE_LINKS \
	16 /* so short a chain is folded in all ways to check */

/* A way to lay the first links, and what came of it. */
struct folding {
	uint8_t step[MAX_LINKS]; /* index in steps[]: to link i from i - 1 */
	int score;               /* result: contacts; -1: none beats the best */
	uint64_t n_tried;        /* result: links laid */
};

/* A search: on the stack of its task. */
struct search {
	struct folding *best;
	uint8_t step[MAX_LINKS];
	uint8_t at[SIDE * SIDE]; /* 0 free, else 1 + is_h */
};

static const int steps[4] = {1, SIDE, -1, -SIDE}; /* right, down, left, up */

static const char *chain = "HHPPHPPHPPHPPHPPHPPHPPHH";
static uint64_t depth = 7, bunch = 64;
static int show;

static int n_links;
static uint8_t is_h[MAX_LINKS];
static int gain_after[MAX_LINKS + 1]; /* contacts that links i... may bring */
static int best; /* score to beat: tasks read it, the program writes it */

static struct folding *foldings; /* shared: tasks write their results here */
static size_t n_foldings;
static struct folding winner;

/* --- the search --- */

/* New contacts of link i at that place. The link before it is no contact. */
static int
contacts(const uint8_t *at, int place, int i)
{
	int n = 0;

	if (!is_h[i])
		return 0;
	for (int d = 0; d < 4; d++)
		n += at[place + steps[d]] == 2;
	return n - is_h[i - 1];
}

static void
lay(struct search *s, int place, int i, int score)
{
	if (i == n_links) {
		if (score > s->best->score) {
			s->best->score = score;
			memcpy(s->best->step, s->step, sizeof(s->step));
		}
		return;
	}
	for (uint8_t d = 0; d < 4; d++) {
		int to = place + steps[d];

		if (s->at[to])
			continue;
		s->best->n_tried++;
		int more = score + contacts(s->at, to, i);
		if (more + gain_after[i + 1] <= s->best->score)
			continue;
		s->at[to] = (uint8_t)(1 + is_h[i]);
		s->step[i] = d;
		lay(s, to, i + 1, more);
		s->at[to] = 0;
	}
}

/* The task. */
static void
fold(size_t i, void *ctx)
{
	struct folding *f = (struct folding *)ctx + i, mine = *f;
	struct search s = {.best = &mine};
	int place = MIDDLE, score = 0;

	mine.score = best;
	s.at[place] = (uint8_t)(1 + is_h[0]);
	memcpy(s.step, f->step, sizeof(s.step));
	for (int link = 1; link < (int)depth; link++) {
		place += steps[f->step[link]];
		score += contacts(s.at, place, link);
		s.at[place] = (uint8_t)(1 + is_h[link]);
	}
	if (score + gain_after[depth] > best)
		lay(&s, place, (int)depth, score);
	if (mine.score == best)
		mine.score = -1;
	*f = mine;
}

static int
run_bunch(enum example_mode mode, size_t begin, size_t end)
{
	if (mode != EXAMPLE_TASKRT)
		return example_loop(mode, begin, end, 1, fold, foldings);
	return taskrt_for(begin, end, fold, foldings,
	                  &(struct taskrt_options){.name = "prototein"});
}

/* The bunches are the same in all modes, and so is the work. */
static int
run(enum example_mode mode)
{
	for (size_t i = 0; i < n_foldings; i += bunch) {
		size_t end = i + bunch < n_foldings ? i + bunch : n_foldings;
		int err = run_bunch(mode, i, end);

		if (err != 0)
			return err;
		for (size_t k = i; k < end; k++) {
			if (foldings[k].score <= best)
				continue;
			winner = foldings[k];
			best = winner.score;
		}
	}
	return 0;
}

/* --- what to search --- */

static int
parse_chain(void)
{
	size_t len = strlen(chain);

	if (len < 3 || len > MAX_LINKS || strspn(chain, "HP") != len) {
		fprintf(stderr,
		        "prototein: --chain: '%s' is not 3 to %d letters H "
		        "and P\n",
		        chain, MAX_LINKS);
		return -1;
	}
	n_links = (int)len;
	/* A link inside has two free neighbours at most, the last one three. */
	for (int i = n_links - 1; i >= 0; i--) {
		is_h[i] = chain[i] == 'H';
		gain_after[i] =
		    gain_after[i + 1] + is_h[i] * (i == n_links - 1 ? 3 : 2);
	}
	if (depth > len)
		depth = len;
	return 0;
}

/*
 * All ways to lay the first `depth` links, of those that a rotation or a mirror
 * image makes equal only one: the first step goes right, the first turn down.
 * With v NULL they are only counted.
 */
static size_t
list_foldings(struct folding *v, struct search *s, int place, int i,
              int has_turned)
{
	size_t count = 0;

	if (i == (int)depth) {
		if (v != NULL)
			memcpy(v->step, s->step, sizeof(s->step));
		return 1;
	}
	s->at[place] = 1;
	for (uint8_t d = 0; d < 4; d++) {
		int to = place + steps[d];

		if (s->at[to] || (i == 1 && d != 0) || (!has_turned && d == 3))
			continue;
		s->step[i] = d;
		count += list_foldings(v != NULL ? v + count : NULL, s, to,
		                       i + 1, has_turned || d == 1);
	}
	s->at[place] = 0;
	return count;
}

static int
setup(void)
{
	static struct search s;

	if (parse_chain() != 0)
		return -1;
	n_foldings = list_foldings(NULL, &s, MIDDLE, 1, 0);
	foldings = dsm_calloc(n_foldings, sizeof(*foldings));
	if (foldings == NULL) {
		perror("prototein");
		return -1;
	}
	dsm_name(foldings, "foldings");
	list_foldings(foldings, &s, MIDDLE, 1, 0);
	return 0;
}

static void
reset(void)
{
	best = -1;
	for (size_t i = 0; i < n_foldings; i++) {
		foldings[i].score = -1;
		foldings[i].n_tried = 0;
	}
}

/* --- is it right? --- */

struct place {
	int x, y;
};

static int
touch(struct place a, struct place b)
{
	return abs(a.x - b.x) + abs(a.y - b.y) == 1;
}

/* Contacts of the first n links; -1 when two are in one place. */
static int
score_of(const struct place *p, int n)
{
	int score = 0;

	for (int i = 0; i < n; i++) {
		for (int k = 0; k < i; k++) {
			if (p[i].x == p[k].x && p[i].y == p[k].y)
				return -1;
			score += k < i - 1 && is_h[i] && is_h[k] &&
			         touch(p[i], p[k]);
		}
	}
	return score;
}

static struct place
step_from(struct place p, int d)
{
	p.x += (d == 0) - (d == 2);
	p.y += (d == 1) - (d == 3);
	return p;
}

static void
places_of(const struct folding *f, struct place *p)
{
	p[0] = (struct place){0, 0};
	for (int i = 1; i < n_links; i++)
		p[i] = step_from(p[i - 1], f->step[i]);
}

/* Best score of all ways to lay links n...: no bound, no lattice, no symmetry. */
static int
try_all(struct place *p, int n)
{
	int max = score_of(p, n);

	if (max < 0 || n == n_links)
		return max;
	max = -1;
	for (int d = 0; d < 4; d++) {
		p[n] = step_from(p[n - 1], d);
		int score = try_all(p, n + 1);

		max = score > max ? score : max;
	}
	return max;
}

/* Chains whose best folding others have found, over and over. */
static const struct {
	const char *chain;
	int score;
} known[] = {
    {"HPHPPHHPHPPHPHHPPHPH", 9},
    {"HHPPHPPHPPHPPHPPHPPHPPHH", 9},
    {"PPHPPHHPPPPHHPPPPHHPPPPHH", 8},
    {"PPPHHPPHHPPPPPHHHHHHHPPHHPPPPHHPPHPP", 14},
    {"PPHPPHHPPHHPPPPPHHHHHHHHHHPPPPPPHHPPHHPPHPPHHHHH", 23},
};

/* What the best score must be; -1: nobody knows. */
static int
expected_score(void)
{
	struct place p[MAX_LINKS] = {{0, 0}, {1, 0}};

	if (n_links <= EXHAUSTIVE_LINKS)
		return try_all(p, 2);
	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
		if (strcmp(known[i].chain, chain) == 0)
			return known[i].score;
	}
	return -1;
}

static int
check(char *text, size_t size)
{
	struct place p[MAX_LINKS];
	int expected = expected_score();
	uint64_t n_tried = 0;

	for (size_t i = 0; i < n_foldings; i++)
		n_tried += foldings[i].n_tried;
	snprintf(text, size,
	         "%d contacts at best, %" PRIu64 " links laid to find it%s",
	         best, n_tried,
	         expected < 0 ? " (only the folding is checked)" : "");
	places_of(&winner, p);
	return score_of(p, n_links) == best &&
	               (expected < 0 || expected == best)
	           ? 0
	           : -1;
}

/* --- the picture --- */

/* Links lie two characters apart; bonds are between them. */
static void
print_folding(void)
{
	static char canvas[4 * MAX_LINKS][4 * MAX_LINKS];
	struct place p[MAX_LINKS], min = {0, 0}, max = {0, 0};

	places_of(&winner, p);
	for (int i = 0; i < n_links; i++) {
		min.x = p[i].x < min.x ? p[i].x : min.x;
		min.y = p[i].y < min.y ? p[i].y : min.y;
		max.x = p[i].x > max.x ? p[i].x : max.x;
		max.y = p[i].y > max.y ? p[i].y : max.y;
	}
	memset(canvas, ' ', sizeof(canvas));
	for (int i = 0; i < n_links; i++) {
		int x = 2 * (p[i].x - min.x), y = 2 * (p[i].y - min.y);

		canvas[y][x] = is_h[i] ? 'H' : 'o';
		if (i == 0)
			continue;
		int from_x = 2 * (p[i - 1].x - min.x);
		int from_y = 2 * (p[i - 1].y - min.y);

		canvas[(y + from_y) / 2][(x + from_x) / 2] =
		    y == from_y ? '-' : '|';
	}
	for (int y = 0; y <= 2 * (max.y - min.y); y++)
		printf("  %.*s\n", 2 * (max.x - min.x) + 1, canvas[y]);
}

static int
finish(void)
{
	if (show)
		print_folding();
	dsm_free(foldings);
	return 0;
}

int
main(int argc, char **argv)
{
	static const struct example_option options[] = {
	    {"chain", "HP...", "the links", .text = &chain},
	    {"depth", "N", "a task for each way to lay so many links",
	     .number = &depth, .min = 2, .max = 14},
	    {"bunch", "N", "tasks between two looks at the best score",
	     .number = &bunch, .min = 1, .max = 1000000},
	    {"show", NULL, "print the folding", .flag = &show},
	    {0},
	};
	static const struct example prototein = {
	    .name = "prototein",
	    .summary = "Find the best folding of a chain on a lattice.",
	    .options = options,
	    .setup = setup,
	    .reset = reset,
	    .run = run,
	    .check = check,
	    .finish = finish,
	};

	return example_main(&prototein, argc, argv);
}
