#include "token.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../base/log.h"
#include "../base/secret.h"

#define FILE_MAX ((size_t)1 << 20)
#define SECRET_GOOD 22 /* base64 of 128 bits */

/* A line, and where it is. */
struct line {
	const char *path;
	unsigned number;
	const char *at, *end;
};

__attribute__((format(printf, 3, 4))) static int
bad_line(const struct line *l, struct dsm_error *e, const char *fmt, ...)
{
	char why[200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	return dsm__fail(e, DSM_EINVAL, "token file %.150s, line %u: %s",
	                 l->path, l->number, why);
}

static int
is_name_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	       (c >= '0' && c <= '9') || (c != '\0' && strchr("._-@", c));
}

int
dsm__token_name_ok(const char *name)
{
	size_t n = 0;

	while (is_name_char(name[n]))
		n++;
	return name[n] == '\0' && n > 0 && n < DSM_TOKEN_NAME_MAX;
}

/* The next word of the line; its length, 0: no more. */
static size_t
next_word(struct line *l, const char **word_p)
{
	while (l->at < l->end && (*l->at == ' ' || *l->at == '\t'))
		l->at++;
	*word_p = l->at;
	while (l->at < l->end && *l->at != ' ' && *l->at != '\t')
		l->at++;
	return (size_t)(l->at - *word_p);
}

static int
is_word(const char *word, size_t len, const char *name)
{
	return len == strlen(name) && memcmp(word, name, len) == 0;
}

/* A number above 0, with K, M, G or T behind it where `sizes`. */
static int
parse_amount(const char *p, size_t len, int sizes, uint64_t *n_p)
{
	static const char units[] = "KMGT";
	uint64_t n = 0;
	size_t i = 0;

	for (; i < len && p[i] >= '0' && p[i] <= '9'; i++)
		if (__builtin_mul_overflow(n, 10, &n) ||
		    __builtin_add_overflow(n, (uint64_t)(p[i] - '0'), &n))
			return DSM_EINVAL;
	if (i > 0 && i + 1 == len && sizes) {
		const char *unit = strchr(units, p[i]);
		unsigned shift;

		if (unit == NULL || p[i] == '\0')
			return DSM_EINVAL;
		shift = 10 * (unsigned)(unit - units + 1);
		if (n > UINT64_MAX >> shift)
			return DSM_EINVAL;
		n <<= shift;
		i++;
	}
	if (i == 0 || i != len || n == 0)
		return DSM_EINVAL;
	*n_p = n;
	return DSM_OK;
}

/* One of the words after the secret. */
static int
parse_word(const struct line *l, const char *word, size_t len,
           struct dsm_identity *who, struct dsm_error *e)
{
	const struct {
		const char *name;
		uint64_t *value;
		int sizes;
	} quotas[] = {
	    {"slots=", &who->slots, 0},
	    {"memory=", &who->memory, 1},
	    {"runs=", &who->runs, 0},
	};

	if (is_word(word, len, "client"))
		who->roles |= DSM_TOKEN_CLIENT;
	else if (is_word(word, len, "worker"))
		who->roles |= DSM_TOKEN_WORKER;
	else if (is_word(word, len, "admin"))
		who->roles |= DSM_TOKEN_CLIENT | DSM_TOKEN_ADMIN;
	else {
		for (unsigned i = 0; i < sizeof(quotas) / sizeof(*quotas);
		     i++) {
			size_t n = strlen(quotas[i].name);

			if (len < n || memcmp(word, quotas[i].name, n) != 0)
				continue;
			if (parse_amount(word + n, len - n, quotas[i].sizes,
			                 quotas[i].value) == DSM_OK)
				return DSM_OK;
			return bad_line(l, e, "\"%.*s\" is not a number%s",
			                (int)(len < 40 ? len : 40), word,
			                quotas[i].sizes ? " of bytes (512M, 8G)"
			                                : " above 0");
		}
		return bad_line(l, e,
		                "\"%.*s\" is none of client, worker, admin, "
		                "slots=N, memory=SIZE, runs=N",
		                (int)(len < 40 ? len : 40), word);
	}
	return DSM_OK;
}

/* Its words are never shown: a secret may be in the wrong place. */
static int
parse_token(struct line *l, struct dsm_token *t, struct dsm_error *e)
{
	const char *word, *colon;
	size_t len = next_word(l, &word), name_len;

	colon = memchr(word, ':', len);
	if (colon == NULL)
		return bad_line(l, e, "not of the form NAME:SECRET");
	name_len = (size_t)(colon - word);
	if (name_len >= sizeof(t->who.name))
		return bad_line(l, e, "a name has at most %d characters",
		                DSM_TOKEN_NAME_MAX - 1);
	memcpy(t->who.name, word, name_len);
	if (memchr(t->who.name, '\0', name_len) != NULL ||
	    !dsm__token_name_ok(t->who.name))
		return bad_line(l, e,
		                "a name is made of letters, digits and ._-@");
	t->secret_len = len - name_len - 1;
	if (t->secret_len == 0)
		return bad_line(l, e, "%s has no secret", t->who.name);
	if (t->secret_len > sizeof(t->secret))
		return bad_line(l, e,
		                "the secret of %s is longer than %d characters",
		                t->who.name, DSM_TOKEN_SECRET_MAX);
	memcpy(t->secret, colon + 1, t->secret_len);
	for (size_t i = 0; i < t->secret_len; i++)
		if (t->secret[i] <= ' ' || t->secret[i] > '~')
			return bad_line(l, e,
			                "the secret of %s is not printable "
			                "ASCII",
			                t->who.name);
	if (t->secret_len < SECRET_GOOD)
		log_warn("token file %s, line %u: the secret of %s has %zu "
		         "characters and can be guessed; \"taskrt token new\" "
		         "makes a good one",
		         l->path, l->number, t->who.name, t->secret_len);
	while ((len = next_word(l, &word)) > 0) {
		int err = parse_word(l, word, len, &t->who, e);

		if (err != DSM_OK)
			return err;
	}
	if (t->who.roles == 0)
		t->who.roles = DSM_TOKEN_CLIENT;
	return DSM_OK;
}

/* Lines with something on them: 0, or 1 with l at its first word. */
static int
has_token(struct line *l)
{
	while (l->at < l->end && (*l->at == ' ' || *l->at == '\t'))
		l->at++;
	return l->at < l->end && *l->at != '#';
}

static int
parse_lines(const char *path, const char *text, size_t len,
            struct dsm_tokens *t, size_t room, struct dsm_error *e)
{
	const char *end = text + len;
	unsigned number = 0;

	for (const char *at = text; at < end;) {
		const char *nl = memchr(at, '\n', (size_t)(end - at));
		struct line l = {path, ++number, at, nl != NULL ? nl : end};
		int err;

		at = nl != NULL ? nl + 1 : end;
		if (l.end > l.at && l.end[-1] == '\r')
			l.end--;
		if (!has_token(&l))
			continue;
		if (t->n == room)
			return bad_line(&l, e, "more than %d tokens",
			                DSM_TOKENS_MAX);
		err = parse_token(&l, &t->v[t->n], e);
		if (err != DSM_OK)
			return err;
		if (dsm__tokens_find(t, t->v[t->n].who.name) != NULL)
			return bad_line(&l, e, "%s occurs a second time",
			                t->v[t->n].who.name);
		t->n++;
	}
	if (t->n == 0)
		return dsm__fail(e, DSM_EINVAL,
		                 "token file %.150s has no token; \"taskrt "
		                 "token new\" makes one",
		                 path);
	return DSM_OK;
}

int
dsm__tokens_parse(const char *path, const char *text, size_t len,
                  struct dsm_tokens **t_p, struct dsm_error *e)
{
	struct dsm_tokens *t;
	size_t room = 1;
	int err;

	for (size_t i = 0; i < len; i++)
		room += text[i] == '\n';
	if (room > DSM_TOKENS_MAX)
		room = DSM_TOKENS_MAX;
	t = dsm__secret_alloc(sizeof(*t) + room * sizeof(t->v[0]));
	if (t == NULL)
		return dsm__fail(e, DSM_ENOMEM, "token file %.150s: no memory",
		                 path);
	err = parse_lines(path, text, len, t, room, e);
	if (err != DSM_OK) {
		dsm__tokens_free(t);
		return err;
	}
	*t_p = t;
	return DSM_OK;
}

/* --- files --- */

/* systemd hands credentials out in a folder that is ours alone; there the group's
 * bits are those of an access list with us on it. */
static int
is_credential(const char *path)
{
	const char *dir = getenv("CREDENTIALS_DIRECTORY");
	size_t n = dir != NULL ? strlen(dir) : 0;

	return n > 0 && strncmp(path, dir, n) == 0 && path[n] == '/' &&
	       strchr(path + n + 1, '/') == NULL;
}

static int
check_file(const char *path, const struct stat *st, struct dsm_error *e)
{
	mode_t others = is_credential(path) ? S_IRWXO : S_IRWXG | S_IRWXO;

	if (!S_ISREG(st->st_mode))
		return dsm__fail(e, DSM_EINVAL,
		                 "token file %.150s is not a regular file",
		                 path);
	if (st->st_uid != geteuid() && st->st_uid != 0)
		return dsm__fail(e, DSM_EAUTH,
		                 "token file %.150s belongs to user %u: it "
		                 "must be yours or root's",
		                 path, st->st_uid);
	if ((st->st_mode & others) != 0)
		return dsm__fail(e, DSM_EAUTH,
		                 "token file %.150s has mode %04o: others can "
		                 "get at it; chmod 600 %.150s",
		                 path, st->st_mode & 07777, path);
	if ((uint64_t)st->st_size > FILE_MAX)
		return dsm__fail(e, DSM_EINVAL,
		                 "token file %.150s is larger than %zu bytes",
		                 path, FILE_MAX);
	return DSM_OK;
}

/* All of it; 0, or an errno. It may grow meanwhile: room for one byte more tells. */
static int
read_all(int fd, char *text, size_t room, size_t *len_p)
{
	size_t len = 0;

	while (len < room) {
		ssize_t n = read(fd, text + len, room - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno;
		if (n == 0)
			break;
		len += (size_t)n;
	}
	*len_p = len;
	return len < room ? 0 : EFBIG;
}

int
dsm__tokens_read(const char *path, struct dsm_tokens **t_p, struct dsm_error *e)
{
	size_t len = 0, room;
	struct stat st;
	char *text;
	int fd, err;

	/* Not waiting, should it be a pipe. */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st) != 0) {
		err = dsm__fail(e, DSM_ESYS, "token file %.150s: %s", path,
		                strerror(errno));
		goto out;
	}
	err = check_file(path, &st, e);
	if (err != DSM_OK)
		goto out;
	room = (size_t)st.st_size + 1;
	text = dsm__secret_alloc(room);
	if (text == NULL) {
		err = dsm__fail(e, DSM_ENOMEM, "token file %.150s: no memory",
		                path);
		goto out;
	}
	int error = read_all(fd, text, room, &len);
	err = error != 0 ? dsm__fail(e, DSM_ESYS, "token file %.150s: %s", path,
	                             strerror(error))
	                 : dsm__tokens_parse(path, text, len, t_p, e);
	dsm__secret_free(text);
out:
	if (fd >= 0)
		close(fd);
	return err;
}

void
dsm__tokens_free(struct dsm_tokens *t)
{
	dsm__secret_free(t);
}

const struct dsm_token *
dsm__tokens_find(const struct dsm_tokens *t, const char *name)
{
	for (size_t i = 0; i < t->n; i++)
		if (strcmp(t->v[i].who.name, name) == 0)
			return &t->v[i];
	return NULL;
}

const struct dsm_token *
dsm__tokens_for(const struct dsm_tokens *t, unsigned role)
{
	for (size_t i = 0; i < t->n; i++)
		if ((t->v[i].who.roles & role) != 0)
			return &t->v[i];
	return NULL;
}
