/*
 * build - tasks build search trees with malloc; the program walks and frees them.
 *
 * What a task allocates belongs to the program when the run is over: pointers to
 * it are good, and free takes it. In the next round the trees are an input like
 * any other: each task takes nodes out of its tree, frees them, though another
 * process allocated them, and hangs in new ones.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <taskrt/taskrt.h>

#include "common/example.h"

#define MAX_TEXT 100

/* A treap: in order of the keys, and no child's priority is above its parent's. */
struct node {
	struct node *left, *right;
	char *text; /* the key in digits, of one length or another */
	uint64_t key, priority;
};

static uint64_t n_trees = 64, n_keys = 4000, n_rounds = 4;
static int in_dsm; /* dsm_malloc instead of malloc */

static struct node **roots; /* shared: one for each task */
static uint64_t round_now;  /* of the run; tasks read it */

/* --- trees --- */

static void *
allocate(size_t size)
{
	void *p = in_dsm ? dsm_malloc(size) : malloc(size);

	/* A task that fails is in the report. */
	if (p == NULL)
		abort();
	return p;
}

static void
release(void *p)
{
	if (in_dsm)
		dsm_free(p);
	else
		free(p);
}

static int
text_of(uint64_t key, char text[MAX_TEXT + 1])
{
	int width = 1 + (int)(example_mix(key) % MAX_TEXT);

	return snprintf(text, MAX_TEXT + 1, "%0*" PRIu64, width, key);
}

static struct node *
make_node(uint64_t key)
{
	char text[MAX_TEXT + 1];
	size_t size = (size_t)text_of(key, text) + 1;
	struct node *n = allocate(sizeof(*n));

	*n = (struct node){.key = key, .priority = example_mix(~key)};
	n->text = allocate(size);
	memcpy(n->text, text, size);
	return n;
}

static void
free_node(struct node *n)
{
	release(n->text);
	release(n);
}

/* All of t with keys below that one, and the others. */
static void
split(struct node *t, uint64_t key, struct node **below, struct node **rest)
{
	if (t == NULL) {
		*below = *rest = NULL;
	} else if (t->key < key) {
		*below = t;
		split(t->right, key, &t->right, rest);
	} else {
		*rest = t;
		split(t->left, key, below, &t->left);
	}
}

/* All keys of a are below those of b. */
static struct node *
join(struct node *a, struct node *b)
{
	if (a == NULL || b == NULL)
		return a == NULL ? b : a;
	if (a->priority > b->priority) {
		a->right = join(a->right, b);
		return a;
	}
	b->left = join(a, b->left);
	return b;
}

static void
insert(struct node **root, struct node *n)
{
	while (*root != NULL && (*root)->priority >= n->priority)
		root = n->key < (*root)->key ? &(*root)->left : &(*root)->right;
	split(*root, n->key, &n->left, &n->right);
	*root = n;
}

static void
erase(struct node **root, uint64_t key)
{
	while (*root != NULL && (*root)->key != key)
		root = key < (*root)->key ? &(*root)->left : &(*root)->right;
	if (*root == NULL)
		abort();
	struct node *n = *root;
	*root = join(n->left, n->right);
	free_node(n);
}

static void
free_tree(struct node *t)
{
	if (t == NULL)
		return;
	free_tree(t->left);
	free_tree(t->right);
	free_node(t);
}

/* --- what the tasks do --- */

/* A key comes in round `key % n_rounds`; every other one goes in the next. */
static int
leaves_in(uint64_t key, uint64_t round)
{
	return round > 0 && key % (2 * n_rounds) == round - 1;
}

static int
is_there_at_last(uint64_t key)
{
	return key % n_rounds == n_rounds - 1 ||
	       key % (2 * n_rounds) >= n_rounds;
}

/* The task. */
static void
work_on_tree(size_t i, void *ctx)
{
	struct node **root = (struct node **)ctx + i;
	uint64_t begin = i * n_keys, end = begin + n_keys;

	for (uint64_t key = begin; key < end; key++) {
		if (leaves_in(key, round_now))
			erase(root, key);
		else if (key % n_rounds == round_now)
			insert(root, make_node(key));
	}
}

static int
run_round(enum example_mode mode)
{
	if (mode != EXAMPLE_TASKRT)
		return example_loop(mode, 0, n_trees, 1, work_on_tree, roots);
	return taskrt_for(0, n_trees, work_on_tree, roots,
	                  &(struct taskrt_options){.name = "build"});
}

static int
run(enum example_mode mode)
{
	int err = 0;

	for (round_now = 0; round_now < n_rounds && err == 0; round_now++)
		err = run_round(mode);
	return err;
}

static int
setup(void)
{
	roots = dsm_calloc(n_trees, sizeof(struct node *));
	if (roots == NULL) {
		perror("build");
		return -1;
	}
	dsm_name(roots, "roots");
	return 0;
}

static void
reset(void)
{
	for (size_t i = 0; i < n_trees; i++) {
		free_tree(roots[i]);
		roots[i] = NULL;
	}
}

/* --- is it right? --- */

/* A walk in order over all trees, and what it must meet. */
struct walk {
	uint64_t key; /* the next one, when it is there at last */
	uint64_t n_nodes, n_wrong, text_size;
};

static void
visit(struct walk *w, const struct node *t)
{
	char text[MAX_TEXT + 1];

	if (t == NULL)
		return;
	visit(w, t->left);
	while (!is_there_at_last(w->key))
		w->key++;
	w->text_size += (uint64_t)text_of(w->key, text);
	w->n_wrong += t->key != w->key || strcmp(t->text, text) != 0;
	w->n_nodes++;
	w->key++;
	visit(w, t->right);
}

static int
check(char *text, size_t size)
{
	uint64_t n_expected = 0;
	struct walk w = {0};

	for (uint64_t key = 0; key < n_trees * n_keys; key++)
		n_expected += (uint64_t)is_there_at_last(key);
	for (size_t i = 0; i < n_trees; i++)
		visit(&w, roots[i]);
	snprintf(text, size,
	         "%" PRIu64 " nodes in %" PRIu64 " trees, %" PRIu64
	         " characters",
	         w.n_nodes, n_trees, w.text_size);
	return w.n_wrong == 0 && w.n_nodes == n_expected ? 0 : -1;
}

static int
finish(void)
{
	reset();
	dsm_free(roots);
	return 0;
}

int
main(int argc, char **argv)
{
	static const struct example_option options[] = {
	    {"trees", "N", "trees, a task for each", .number = &n_trees,
	     .min = 1, .max = 1000000},
	    {"keys", "N", "keys of each tree", .number = &n_keys, .min = 1,
	     .max = 1000000},
	    {"rounds", "N", "runs that take out old keys and put in new ones",
	     .number = &n_rounds, .min = 1, .max = 1000},
	    {"dsm", NULL, "nodes in dsm_malloc memory, not malloc",
	     .flag = &in_dsm},
	    {0},
	};
	static const struct example build = {
	    .name = "build",
	    .summary = "Build trees in tasks, walk and free them outside.",
	    .options = options,
	    .setup = setup,
	    .reset = reset,
	    .run = run,
	    .check = check,
	    .finish = finish,
	};

	return example_main(&build, argc, argv);
}
