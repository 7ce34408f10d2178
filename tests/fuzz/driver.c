/*
 * main() for a fuzz target without libFuzzer: runs it over every file named and all
 * files of every folder named, then (-s) for so many seconds over random mutations
 * of them. `make test` does both with the saved corpora.
 *
 * usage: fuzz_NAME [-s SECONDS] [-r SEED] FILE|FOLDER...
 *
 * Without the coverage that libFuzzer is led by, but for scripts (fuzz.h) chance
 * goes far. An input that ends the program is in fuzz-NAME.crash of the current
 * folder, or of FUZZ_ARTIFACTS.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../dsm/base/clock.h"
#include "fuzz.h"

#define INPUT_MAX (1u << 20)
#define GROWN_MAX 4096u /* a mutation gets no longer than that, if it was not */
#define SEEDS_MAX 4096u
/* As long an input may take; a hang is a find. */
#define INPUT_SECONDS 30

struct seed {
	uint8_t *ptr;
	size_t len;
};

static struct seed seeds[SEEDS_MAX];
static unsigned n_seeds;
static uint64_t state; /* of the random numbers */
static char crash_path[1024];

/* splitmix64 */
static uint64_t
next_random(void)
{
	uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static size_t
below(size_t n)
{
	return n > 0 ? next_random() % n : 0;
}

/* --- inputs --- */

static int
keep(const uint8_t *buf, size_t len)
{
	struct seed *s = &seeds[n_seeds];

	if (n_seeds == SEEDS_MAX)
		return 0;
	/* Exactly as long as the input: sanitizers see a byte too many. */
	s->ptr = malloc(len != 0 ? len : 1);
	if (s->ptr == NULL)
		return 1;
	memcpy(s->ptr, buf, len);
	s->len = len;
	n_seeds++;
	return 0;
}

static int
load_file(const char *path)
{
	static uint8_t buf[INPUT_MAX];
	FILE *f = fopen(path, "rb");
	size_t len;

	if (f == NULL) {
		perror(path);
		return 1;
	}
	len = fread(buf, 1, sizeof(buf), f);
	fclose(f);
	return keep(buf, len);
}

static int
load(const char *path)
{
	struct dirent *entry;
	char file[1024];
	int err = 0;
	DIR *d = opendir(path);

	if (d == NULL)
		return load_file(path);
	while (err == 0 && (entry = readdir(d)) != NULL) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
		err = load_file(file);
	}
	closedir(d);
	return err;
}

/* --- mutations --- */

static size_t
insert(uint8_t *buf, size_t len, size_t cap, const uint8_t *from, size_t n)
{
	size_t at = below(len + 1);

	if (n > cap - len)
		n = cap - len;
	memmove(buf + at + n, buf + at, len - at);
	for (size_t i = 0; i < n; i++)
		buf[at + i] = from != NULL ? from[i] : (uint8_t)next_random();
	return len + n;
}

static size_t
mutate(uint8_t *buf, size_t len, size_t cap)
{
	const struct seed *other = &seeds[below(n_seeds)];
	size_t at = below(len), n;

	switch (below(7)) {
	case 0:
		return insert(buf, len, cap, NULL, 1 + below(16));
	case 1: /* a piece of another */
		at = below(other->len);
		n = below(other->len - at + 1);
		return insert(buf, len, cap, other->ptr + at, n);
	case 2:
		n = len > 0 ? 1 + below(len - at < 32 ? len - at : 32) : 0;
		memmove(buf + at, buf + at + n, len - at - n);
		return len - n;
	case 3:
		if (len > 0)
			buf[at] ^= (uint8_t)(1u << below(8));
		return len;
	case 4:
		return below(len + 1);
	default:
		if (len > 0)
			buf[at] = (uint8_t)next_random();
		return len;
	}
}

/* What runs now, should it be the last. */
static int crash_fd = -1;

static void
note(const uint8_t *p, size_t len)
{
	if (crash_fd < 0)
		return;
	if (ftruncate(crash_fd, 0) != 0 ||
	    pwrite(crash_fd, p, len, 0) != (ssize_t)len)
		perror(crash_path);
}

static void
run(const uint8_t *p, size_t len)
{
	alarm(INPUT_SECONDS);
	LLVMFuzzerTestOneInput(p, len);
	alarm(0);
}

static unsigned long
run_mutations(double seconds)
{
	static uint8_t buf[INPUT_MAX];
	uint64_t until = dsm__now() + (uint64_t)(seconds * (double)DSM_SEC);
	unsigned long n = 0;

	while (dsm__now() < until) {
		const struct seed *s = &seeds[below(n_seeds)];
		size_t len = s->len;
		size_t cap = len > GROWN_MAX ? len : GROWN_MAX;
		uint8_t *exact;

		memcpy(buf, s->ptr, len);
		for (size_t k = 1 + below(8); k > 0; k--)
			len = mutate(buf, len, cap);
		note(buf, len);
		exact = malloc(len != 0 ? len : 1);
		if (exact == NULL)
			break;
		memcpy(exact, buf, len);
		run(exact, len);
		free(exact);
		n++;
	}
	return n;
}

int
main(int argc, char **argv)
{
	const char *name = strrchr(argv[0], '/');
	const char *folder = getenv("FUZZ_ARTIFACTS");
	unsigned long n = 0;
	double seconds = 0;
	/* Targets may put stdout elsewhere. */
	FILE *out = fdopen(dup(STDOUT_FILENO), "w");
	int opt;

	state = dsm__now();
	while ((opt = getopt(argc, argv, "s:r:")) != -1) {
		if (opt == 's')
			seconds = strtod(optarg, NULL);
		else if (opt == 'r')
			state = strtoull(optarg, NULL, 0);
		else
			return 2;
	}
	for (int i = optind; i < argc; i++)
		if (load(argv[i]) != 0)
			return 1;
	for (unsigned i = 0; i < n_seeds; i++)
		run(seeds[i].ptr, seeds[i].len);
	if (seconds > 0 && n_seeds > 0) {
		snprintf(crash_path, sizeof(crash_path), "%s/%s.crash",
		         folder != NULL ? folder : ".",
		         name != NULL ? name + 1 : argv[0]);
		crash_fd = open(crash_path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
		n = run_mutations(seconds);
		close(crash_fd);
		unlink(crash_path);
	}
	if (out != NULL) {
		fprintf(out, "%s: %u inputs, %lu mutations\n", argv[0], n_seeds,
		        n);
		fclose(out);
	}
	for (unsigned i = 0; i < n_seeds; i++)
		free(seeds[i].ptr);
	return n_seeds == 0;
}
