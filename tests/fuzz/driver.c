/*
 * main() for a fuzz target without libFuzzer: runs it over every file of the
 * folders given. `make test` does so with the saved corpora.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define INPUT_MAX (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int
run_file(const char *path)
{
	/* Exactly as long as the input: sanitizers see a byte too many. */
	static uint8_t buf[INPUT_MAX];
	FILE *f = fopen(path, "rb");
	uint8_t *copy;
	size_t len;

	if (f == NULL) {
		perror(path);
		return 1;
	}
	len = fread(buf, 1, sizeof(buf), f);
	fclose(f);
	copy = malloc(len != 0 ? len : 1);
	if (copy == NULL)
		return 1;
	for (size_t i = 0; i < len; i++)
		copy[i] = buf[i];
	LLVMFuzzerTestOneInput(copy, len);
	free(copy);
	return 0;
}

static int
run_folder(const char *folder, unsigned *n_p)
{
	DIR *d = opendir(folder);
	struct dirent *entry;
	char path[1024];
	int err = 0;

	if (d == NULL) {
		perror(folder);
		return 1;
	}
	while (err == 0 && (entry = readdir(d)) != NULL) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		err = run_file(path);
		++*n_p;
	}
	closedir(d);
	return err;
}

int
main(int argc, char **argv)
{
	unsigned n = 0;

	for (int i = 1; i < argc; i++)
		if (run_folder(argv[i], &n) != 0)
			return 1;
	printf("%s: %u inputs\n", argv[0], n);
	return n == 0;
}
