/*
 * Any text where text is taken apart: /proc/self/maps, token files, JSON, settings in
 * the environment, addresses, options. The first byte picks one.
 */
#include "fuzz.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../coordinator/options.h"
#include "../../dsm/heap/maptext.h"
#include "../../dsm/transport/conn.h"
#include "../../dsm/transport/token.h"
#include "../../taskrt/client/config.h"
#include "../../tools/json.h"

#define WORDS_MAX 12

static int null, our_stderr;

static void
try_maps(char *text)
{
	const char *begin = text, *end = text + strlen(text) + 1;
	struct dsm_mapline l;
	char *p = text;

	while (dsm__maptext_line(&p, &l)) {
		FUZZ_MUST(p >= begin && p <= end);
		FUZZ_MUST(l.start < l.end);
		FUZZ_MUST(strlen(l.path) < (size_t)(end - begin));
		dsm__is_system_library(l.path);
	}
}

static void
try_tokens(const char *text, size_t len)
{
	struct dsm_tokens *t = NULL;
	struct dsm_error e = {0};

	if (dsm__tokens_parse("tokens", text, len, &t, &e) != DSM_OK) {
		FUZZ_MUST(e.text[0] != '\0');
		return;
	}
	for (size_t i = 0; i < t->n; i++) {
		FUZZ_MUST(dsm__token_name_ok(t->v[i].who.name));
		FUZZ_MUST(dsm__tokens_find(t, t->v[i].who.name) == &t->v[i]);
		FUZZ_MUST(t->v[i].secret_len > 0 &&
		          t->v[i].secret_len <= sizeof(t->v[i].secret));
	}
	dsm__tokens_free(t);
}

/* What `taskrt stat` does with an answer. */
static void
try_json(const char *text)
{
	char buf[40];
	const char *v;
	int whole = json_is_whole(text);

	if (!json_is_object(text) && *text != '[')
		return;
	v = json_first(*text == '[' ? text : json_member(text, "workers"));
	for (unsigned n = 0; v != NULL; v = json_next(v), n++) {
		json_number(json_member(v, "slots"));
		json_text(json_member(v, "name"), buf, sizeof(buf));
		FUZZ_MUST(strlen(buf) < sizeof(buf));
		for (const char *c = buf; *c != '\0'; c++)
			FUZZ_MUST((unsigned char)*c >= 0x20 && *c != 0x7f);
		/* Each step goes on in the text. */
		FUZZ_MUST(n < strlen(text));
	}
	(void)whole;
}

static void
try_settings(char *text)
{
	char *env[WORDS_MAX + 1] = {NULL};
	struct taskrt__config c;
	struct dsm_error e = {0};
	size_t n = 0;

	for (char *p = strtok(text, "\n"); p != NULL && n < WORDS_MAX;
	     p = strtok(NULL, "\n"))
		env[n++] = p;
	/* It names a file that is not to be read. */
	for (size_t i = 0; i < n; i++)
		if (strstr(env[i], "FILE") != NULL)
			return;
	if (taskrt__config_load(&c, NULL, env, &e) != DSM_OK)
		FUZZ_MUST(e.text[0] != '\0');
}

static void
try_address(const char *text)
{
	(void)dsm__tcp_is_numeric(text);
}

static void
try_options(char *text)
{
	static int flag;
	static const char *word;
	static uint64_t number, seconds;
	static const struct opt opts[] = {
	    {"--flag", "-f", NULL, "a flag", OPT_FLAG, &flag, 0, 0},
	    {"--text", "-t", "WORD", "a text", OPT_TEXT, &word, 0, 0},
	    {"--number", "-n", "N", "a number", OPT_NUMBER, &number, 3, 70000},
	    {"--seconds", NULL, "S", "seconds", OPT_SECONDS, &seconds, 0, 0},
	    {"--help", "-h", NULL, "this", OPT_HELP, NULL, 0, 0},
	    {NULL, NULL, NULL, NULL, OPT_FLAG, NULL, 0, 0},
	};
	static const struct opt_command c = {"fuzz", "[WORD]", "Fuzz.", opts,
	                                     1};
	char *argv[WORDS_MAX + 2] = {"fuzz"};
	int n = 1, status = -1, at;

	for (char *p = strtok(text, "\n"); p != NULL && n <= WORDS_MAX;
	     p = strtok(NULL, "\n"))
		argv[n++] = p;
	number = 3;
	/* Complaints go to stderr, where our own ought to be seen. */
	dup2(null, STDERR_FILENO);
	at = opt_parse(&c, n, argv, &status);
	fflush(stderr);
	dup2(our_stderr, STDERR_FILENO);
	FUZZ_MUST(at < 0 ? status == 0 || status == 2 : at >= 1 && at <= n);
	FUZZ_MUST(number >= 3 && number <= 70000);
	FUZZ_MUST(seconds <= UINT64_C(1000000000));
}

static void
setup_once(void)
{
	null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	our_stderr = dup(STDERR_FILENO);
	fuzz_quiet();
	FUZZ_MUST(null >= 0 && our_stderr >= 0 &&
	          dup2(null, STDOUT_FILENO) >= 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int ready;
	char *text;

	if (!ready)
		setup_once();
	ready = 1;
	if (size == 0)
		return 0;
	text = malloc(size);
	FUZZ_MUST(text != NULL);
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	switch (data[0] % 6) {
	case 0:
		try_maps(text);
		break;
	case 1:
		try_tokens(text, size - 1);
		break;
	case 2:
		try_json(text);
		break;
	case 3:
		try_settings(text);
		break;
	case 4:
		try_address(text);
		break;
	default:
		try_options(text);
	}
	free(text);
	return 0;
}
