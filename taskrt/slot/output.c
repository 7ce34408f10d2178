#include "output.h"
#include "fetch.h"

#include <string.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/wire/wire.h"

#define KEEP_BYTES (64u << 10)
#define WORDS_MAX 400u

static struct {
	struct dsm_conn *data;
	uint64_t run, attempt, task;
	unsigned fd; /* whose text is kept */
	int sent;
	struct dsm_wbuf text, frame;
	char words[WORDS_MAX]; /* the last ones on stderr, of words_task */
	size_t n_words;
	uint64_t words_task;
} out;

int
output_init(struct dsm_conn *data)
{
	out.data = data;
	return DSM_OK;
}

void
output_begin(uint64_t run, uint64_t attempt)
{
	out.run = run;
	out.attempt = attempt;
	out.sent = 0;
	out.n_words = 0;
}

int
output_sent(void)
{
	return out.sent;
}

/* Send the first len bytes kept. */
static int
send_text(size_t len)
{
	struct dsm_msg_output m = {
	    .run = out.run,
	    .attempt = out.attempt,
	    .task = out.task,
	    .fd = out.fd,
	    .text = {out.text.ptr, (uint32_t)len},
	};
	struct iovec iov;
	int err;

	if (len == 0)
		return DSM_OK;
	dsm__wbuf_reset(&out.frame);
	err = dsm__encode_output(&out.frame, &m);
	if (err != DSM_OK)
		return err;
	iov = (struct iovec){out.frame.ptr, out.frame.len};
	err = dsm__conn_send(out.data, DSM_MSG_OUTPUT, 0, 0, &iov, 1);
	if (err == DSM_OK)
		err = dsm__conn_drain(out.data, dsm__deadline_ms(CLIENT_MS));
	out.sent = 1;
	memmove(out.text.ptr, out.text.ptr + len, out.text.len - len);
	out.text.len -= len;
	return err;
}

int
output_flush(void)
{
	return send_text(out.text.len);
}

/* Up to the end of the last whole line, or all when there is none. */
static int
send_lines(void)
{
	const uint8_t *end = memrchr(out.text.ptr, '\n', out.text.len);

	return send_text(end != NULL ? (size_t)(end + 1 - out.text.ptr)
	                             : out.text.len);
}

static void
keep_words(uint64_t task, const char *text, size_t len)
{
	if (task != out.words_task)
		out.n_words = 0;
	out.words_task = task;
	if (len > WORDS_MAX) {
		text += len - WORDS_MAX;
		len = WORDS_MAX;
	}
	if (out.n_words + len > WORDS_MAX) {
		size_t gone = out.n_words + len - WORDS_MAX;

		memmove(out.words, out.words + gone, out.n_words - gone);
		out.n_words -= gone;
	}
	memcpy(out.words + out.n_words, text, len);
	out.n_words += len;
}

void
output_last_words(uint64_t task, char *buf, size_t size)
{
	size_t from = 0, len = 0;
	int gap = 0;

	if (task != out.words_task)
		out.n_words = 0;
	/* What has lost its beginning says little. */
	if (out.n_words == WORDS_MAX) {
		const char *line = memchr(out.words, '\n', out.n_words);

		from = line != NULL && line[1] != '\0' &&
		               line + 1 < out.words + out.n_words
		           ? (size_t)(line + 1 - out.words)
		           : 0;
	}
	for (size_t i = from; i < out.n_words && len + 3 < size; i++) {
		unsigned char c = (unsigned char)out.words[i];

		if (c <= ' ') {
			gap = len > 0;
			continue;
		}
		if (gap)
			buf[len++] = ' ';
		gap = 0;
		buf[len++] = (char)c;
	}
	buf[len] = '\0';
}

int
output_write(uint64_t task, unsigned fd, const void *text, size_t len)
{
	int err = DSM_OK;

	if (out.text.len > 0 && (fd != out.fd || task != out.task))
		err = output_flush();
	out.fd = fd;
	out.task = task;
	if (fd == 2)
		keep_words(task, text, len);
	if (err == DSM_OK)
		err = dsm__wbuf_put(&out.text, text, len);
	if (err == DSM_OK && out.text.len >= KEEP_BYTES)
		err = send_lines();
	return err;
}
