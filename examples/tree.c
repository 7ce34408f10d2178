/*
 * tree - tasks search a red-black tree that the program has built.
 *
 * A million small nodes, all over the program's memory, linked by plain
 * pointers: no array to cut in pieces, nothing to serialise. Each task finds
 * its way from the root; only pages on the way are transferred, once a machine.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <taskrt/taskrt.h>

#include "common/example.h"

struct node {
	struct node *child[2];
	uint64_t key, value;
	int red;
};

/* What one task has found. */
struct tally {
	uint64_t found, sum;
};

static uint64_t n_keys = 1000000, n_tasks = 100, n_searches = 20000;
static int in_dsm; /* nodes from dsm_malloc instead of malloc */

static struct node *root;     /* tasks read globals, too */
static struct tally *tallies; /* shared: one for each task */

/* --- the tree --- */

static int
is_red(const struct node *t)
{
	return t != NULL && t->red;
}

static struct node *
rotate(struct node *t, int dir)
{
	struct node *up = t->child[!dir];

	assert(up != NULL);
	t->child[!dir] = up->child[dir];
	up->child[dir] = t;
	t->red = 1;
	up->red = 0;
	return up;
}

/* After an insertion below t->child[dir]: no red node may have a red child. */
static struct node *
balance(struct node *t, int dir)
{
	struct node *c = t->child[dir];

	if (!is_red(c) || (!is_red(c->child[0]) && !is_red(c->child[1])))
		return t;
	if (is_red(t->child[!dir])) {
		t->red = 1;
		t->child[0]->red = t->child[1]->red = 0;
		return t;
	}
	if (is_red(c->child[!dir]))
		t->child[dir] = rotate(c, dir);
	return rotate(t, !dir);
}

static struct node *
insert(struct node *t, struct node *n)
{
	if (t == NULL)
		return n;
	int dir = n->key > t->key;
	t->child[dir] = insert(t->child[dir], n);
	return balance(t, dir);
}

static const struct node *
find(const struct node *t, uint64_t key)
{
	while (t != NULL && t->key != key)
		t = t->child[key > t->key];
	return t;
}

static void
free_tree(struct node *t)
{
	if (t == NULL)
		return;
	free_tree(t->child[0]);
	free_tree(t->child[1]);
	if (in_dsm)
		dsm_free(t);
	else
		free(t);
}

/* --- the searches --- */

/* The number that a task looks for: from 0 to 2 n_keys, the lower half is there. */
static uint64_t
wanted(size_t task, uint64_t i)
{
	return example_mix(~(task * n_searches + i)) % (2 * n_keys);
}

static void
search(size_t task, void *ctx)
{
	struct tally result = {0};

	for (uint64_t i = 0; i < n_searches; i++) {
		uint64_t key = example_mix(wanted(task, i));
		const struct node *n = find(ctx, key);

		if (n != NULL) {
			result.found++;
			result.sum += n->value;
		}
	}
	tallies[task] = result;
}

static int
run(enum example_mode mode)
{
	if (mode != EXAMPLE_TASKRT)
		return example_loop(mode, 0, n_tasks, 1, search, root);
	return taskrt_for(0, n_tasks, search, root,
	                  &(struct taskrt_options){.name = "tree"});
}

static int
setup(void)
{
	tallies = dsm_calloc(n_tasks, sizeof(*tallies));
	if (tallies == NULL)
		goto no_memory;
	dsm_name(tallies, "tallies");
	for (uint64_t i = 0; i < n_keys; i++) {
		struct node *n =
		    in_dsm ? dsm_malloc(sizeof(*n)) : malloc(sizeof(*n));

		if (n == NULL)
			goto no_memory;
		*n = (struct node){.key = example_mix(i), .value = i, .red = 1};
		root = insert(root, n);
		root->red = 0;
	}
	return 0;
no_memory:
	perror("tree");
	return -1;
}

static void
reset(void)
{
	memset(tallies, 0, n_tasks * sizeof(*tallies));
}

/* What must have been found can be told without the tree. */
static int
check(char *text, size_t size)
{
	struct tally all = {0};
	size_t n_right = 0;

	for (size_t task = 0; task < n_tasks; task++) {
		struct tally right = {0};

		for (uint64_t i = 0; i < n_searches; i++) {
			uint64_t value = wanted(task, i);

			if (value < n_keys) {
				right.found++;
				right.sum += value;
			}
		}
		n_right += tallies[task].found == right.found &&
		           tallies[task].sum == right.sum;
		all.found += tallies[task].found;
		all.sum += tallies[task].sum;
	}
	snprintf(text, size, "found %" PRIu64 " of %" PRIu64 ", sum %" PRIu64,
	         all.found, n_tasks * n_searches, all.sum);
	return n_right == n_tasks ? 0 : -1;
}

static int
finish(void)
{
	free_tree(root);
	dsm_free(tallies);
	return 0;
}

int
main(int argc, char **argv)
{
	static const struct example_option options[] = {
	    {"keys", "N", "nodes of the tree", .number = &n_keys, .min = 1,
	     .max = 1000000000},
	    {"tasks", "N", "tasks", .number = &n_tasks, .min = 1,
	     .max = 1000000},
	    {"searches", "N", "searches of each task", .number = &n_searches,
	     .min = 1, .max = 1000000000},
	    {"dsm", NULL, "nodes in dsm_malloc memory, not malloc",
	     .flag = &in_dsm},
	    {0},
	};
	static const struct example tree = {
	    .name = "tree",
	    .summary = "Search a red-black tree of the program's in tasks.",
	    .options = options,
	    .setup = setup,
	    .reset = reset,
	    .run = run,
	    .check = check,
	    .finish = finish,
	};

	return example_main(&tree, argc, argv);
}
