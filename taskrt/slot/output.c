#include "output.h"

#include <string.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/wire/wire.h"

#define KEEP_BYTES (64u << 10)
#define SEND_MS 30000u

static struct {
	struct dsm_conn *data;
	uint64_t run, task;
	unsigned fd; /* whose text is kept */
	int sent;
	struct dsm_wbuf text, frame;
} out;

int
output_init(struct dsm_conn *data)
{
	out.data = data;
	return DSM_OK;
}

void
output_begin(uint64_t run)
{
	out.run = run;
	out.sent = 0;
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
		err = dsm__conn_drain(out.data, dsm__deadline_ms(SEND_MS));
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

int
output_write(uint64_t task, unsigned fd, const void *text, size_t len)
{
	int err = DSM_OK;

	if (out.text.len > 0 && (fd != out.fd || task != out.task))
		err = output_flush();
	out.fd = fd;
	out.task = task;
	if (err == DSM_OK)
		err = dsm__wbuf_put(&out.text, text, len);
	if (err == DSM_OK && out.text.len >= KEEP_BYTES)
		err = send_lines();
	return err;
}
