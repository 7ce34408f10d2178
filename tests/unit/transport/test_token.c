/* Token files: what a line says, what is refused, who may read the file. */
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../../dsm/base/log.h"
#include "../../../dsm/base/secret.h"
#include "../../../dsm/transport/token.h"
#include "../../test.h"

#define SECRET "0123456789abcdef0123456789abcdef"

static struct dsm_tokens *
parse(const char *text)
{
	struct dsm_tokens *t;
	struct dsm_error e = {0};
	int err = dsm__tokens_parse("f", text, strlen(text), &t, &e);

	if (err != DSM_OK)
		printf("    %s\n", e.text);
	MUST_OK(err);
	return t;
}

static void
must_fail(const char *text, const char *why)
{
	struct dsm_tokens *t;
	struct dsm_error e = {0};

	MUST_BE(dsm__tokens_parse("f", text, strlen(text), &t, &e), DSM_EINVAL);
	if (strstr(e.text, why) == NULL)
		printf("    \"%s\" does not say \"%s\"\n", e.text, why);
	MUST(strstr(e.text, why) != NULL);
	/* Whatever is wrong, the secret is not shown. */
	MUST(strstr(e.text, SECRET) == NULL);
}

static void
test_a_line_is_a_name_a_secret_and_words(void)
{
	struct dsm_tokens *t = parse("# users\n"
	                             "\n"
	                             "alice:" SECRET "\n"
	                             "  bob:" SECRET " slots=4 memory=8G "
	                             "runs=2\r\n"
	                             "machines:" SECRET "\tworker\n"
	                             "root:" SECRET " admin worker");
	const struct dsm_token *v;

	MUST_BE(t->n, 4);
	v = dsm__tokens_find(t, "alice");
	MUST(v != NULL);
	MUST_BE(v->who.roles, DSM_TOKEN_CLIENT);
	MUST_BE(v->who.slots, 0);
	MUST_BE(v->secret_len, strlen(SECRET));
	MUST(memcmp(v->secret, SECRET, v->secret_len) == 0);
	v = dsm__tokens_find(t, "bob");
	MUST_BE(v->who.slots, 4);
	MUST_BE(v->who.memory, UINT64_C(8) << 30);
	MUST_BE(v->who.runs, 2);
	MUST_BE(v->who.roles, DSM_TOKEN_CLIENT);
	v = dsm__tokens_find(t, "machines");
	MUST_BE(v->who.roles, DSM_TOKEN_WORKER);
	v = dsm__tokens_find(t, "root");
	MUST_BE(v->who.roles,
	        DSM_TOKEN_WORKER | DSM_TOKEN_CLIENT | DSM_TOKEN_ADMIN);
	MUST(dsm__tokens_find(t, "carol") == NULL);
	MUST(dsm__tokens_for(t, DSM_TOKEN_WORKER) ==
	     dsm__tokens_find(t, "machines"));
	dsm__tokens_free(t);
}

static void
test_a_bad_line_is_named_without_its_secret(void)
{
	must_fail("alice:" SECRET "\nbob\n", "line 2: not of the form");
	must_fail(SECRET "\n", "line 1: not of the form");
	must_fail("a b:" SECRET "\n", "not of the form");
	must_fail("a/b:" SECRET "\n", "letters, digits");
	must_fail(":" SECRET "\n", "letters, digits");
	must_fail("alice:\n", "alice has no secret");
	must_fail("alice:" SECRET "\x01\n", "not printable");
	must_fail("alice:" SECRET " chief\n", "\"chief\" is none of client");
	must_fail("alice:" SECRET " slots=0\n", "\"slots=0\" is not a number");
	must_fail("alice:" SECRET " slots=4G\n", "is not a number above 0");
	must_fail("alice:" SECRET " memory=8X\n", "number of bytes");
	must_fail("alice:" SECRET " memory=99999999T\n", "number of bytes");
	must_fail("alice:" SECRET "\nalice:" SECRET "\n",
	          "line 2: alice occurs a second time");
	must_fail("# nobody\n", "has no token");
	must_fail("", "has no token");
}

/* A file of ours in a folder of its own. */
struct file {
	char dir[32], path[64];
};

static void
make_file(struct file *f, const char *text, mode_t mode)
{
	FILE *out;

	snprintf(f->dir, sizeof(f->dir), "/tmp/taskrt-token-XXXXXX");
	MUST(mkdtemp(f->dir) != NULL);
	snprintf(f->path, sizeof(f->path), "%s/token", f->dir);
	out = fopen(f->path, "w");
	MUST(out != NULL);
	fputs(text, out);
	MUST_BE(fclose(out), 0);
	MUST_BE(chmod(f->path, mode), 0);
}

static void
remove_file(struct file *f)
{
	unlink(f->path);
	rmdir(f->dir);
}

static void
must_read(mode_t mode, int want, const char *why)
{
	struct dsm_tokens *t = NULL;
	struct dsm_error e = {0};
	struct file f;

	make_file(&f, "alice:" SECRET "\n", mode);
	MUST_BE(dsm__tokens_read(f.path, &t, &e), want);
	if (want == DSM_OK) {
		MUST_BE(t->n, 1);
		dsm__tokens_free(t);
	} else {
		MUST(strstr(e.text, why) != NULL);
		MUST(strstr(e.text, f.path) != NULL);
	}
	remove_file(&f);
}

static void
test_a_file_that_others_can_get_at_is_refused(void)
{
	must_read(0600, DSM_OK, NULL);
	must_read(0400, DSM_OK, NULL);
	must_read(0640, DSM_EAUTH, "chmod 600");
	must_read(0604, DSM_EAUTH, "mode 0604");
	must_read(0620, DSM_EAUTH, "chmod 600");
}

static void
test_a_credential_of_systemd_may_have_a_group(void)
{
	struct dsm_tokens *t;
	struct dsm_error e = {0};
	struct file f;

	make_file(&f, "alice:" SECRET "\n", 0440);
	setenv("CREDENTIALS_DIRECTORY", f.dir, 1);
	MUST_OK(dsm__tokens_read(f.path, &t, &e));
	dsm__tokens_free(t);
	chmod(f.path, 0444);
	MUST_BE(dsm__tokens_read(f.path, &t, &e), DSM_EAUTH);
	unsetenv("CREDENTIALS_DIRECTORY");
	remove_file(&f);
}

static void
test_a_file_of_somebody_else_is_refused(void)
{
	struct dsm_tokens *t;
	struct dsm_error e = {0};
	struct file f;

	make_file(&f, "alice:" SECRET "\n", 0600);
	/* Only root can give a file away; others test what root owns. */
	if (chown(f.path, 4321, 4321) == 0) {
		MUST_BE(dsm__tokens_read(f.path, &t, &e), DSM_EAUTH);
		MUST(strstr(e.text, "belongs to user 4321") != NULL);
	}
	remove_file(&f);
}

static void
test_what_is_no_file_is_an_error(void)
{
	struct dsm_tokens *t;
	struct dsm_error e = {0};

	MUST_BE(dsm__tokens_read("/tmp", &t, &e), DSM_EINVAL);
	MUST(strstr(e.text, "not a regular file") != NULL);
	MUST_BE(dsm__tokens_read("/nowhere/at/all", &t, &e), DSM_ESYS);
	MUST(strstr(e.text, "No such file") != NULL);
}

static void
test_tokens_lie_in_memory_for_secrets(void)
{
	struct dsm_tokens *t = parse("alice:" SECRET "\n");
	uint64_t start, end;

	dsm__secret_span(&start, &end);
	MUST((uintptr_t)t >= start && (uintptr_t)t < end);
	dsm__tokens_free(t);
}

SUITE(dsm_transport_token, "dsm.transport.token",
      T(test_a_line_is_a_name_a_secret_and_words),
      T(test_a_bad_line_is_named_without_its_secret),
      T(test_a_file_that_others_can_get_at_is_refused),
      T(test_a_credential_of_systemd_may_have_a_group),
      T(test_a_file_of_somebody_else_is_refused),
      T(test_what_is_no_file_is_an_error),
      T(test_tokens_lie_in_memory_for_secrets));
