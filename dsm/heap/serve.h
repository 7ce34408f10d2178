/*
 * The page server of one client session: answers READ, keeps the copies that
 * launches compare, remembers which heap pages were ever served.
 *
 * Heap pages come from the serving view (frozen). Others are copied with
 * process_vm_readv on ourselves (a bad page is an answer, not a crash); pages
 * of ranges that may change (all but CODE and VDSO) are kept as served copies,
 * and served from those until the next launch.
 *
 * Locks: none inside; the owner of the session's loop calls everything here,
 * under the drive lock. Page look-ups go through dsm__map_find, which takes no
 * lock.
 */
#ifndef DSM_HEAP_SERVE_H
#define DSM_HEAP_SERVE_H

#include <sys/uio.h>

#include "map.h"
#include "views.h"

struct dsm_server;

int dsm__server_create(struct dsm_map *map, struct dsm_views *views,
                       struct dsm_server **s_p);
void dsm__server_destroy(struct dsm_server *s);

/*
 * Pages [addr, addr + n_pages): *iov_p points at memory of the server or of the
 * serving view, valid until the next call; *n_p pages from addr on that are
 * readable and in one range (may be fewer than asked; 0: not mapped, with the
 * table refreshed once before giving up).
 */
int dsm__server_read(struct dsm_server *s, uint64_t addr, uint32_t n_pages,
                     struct iovec *iov_p, uint32_t *n_p);

/*
 * Launch: of the heap pages in `changed` keep those that were ever served, as
 * pages to drop (appended to drops; they count as not served again), and all that
 * are pinned (views.h): nobody sees who reads those. Pages
 * outside the heap whose contents differ from the served copy: appended to
 * updates, contents (4096 each) to `pages`, copy renewed. Served pages that
 * cannot be read any more are appended to drops. Lists come with nothing in
 * them but what is to be sent; DSM_ENOMEM: send nothing, the next launch finds
 * it again (heap pages if `changed` names them again).
 */
struct dsm_wbuf;
int dsm__server_launch(struct dsm_server *s, const struct dsm_extents *changed,
                       struct dsm_extents *drops, struct dsm_extents *updates,
                       struct dsm_wbuf *pages);

/*
 * After dsm__server_launch: send pages of the heap [start, end) along that nobody
 * was ever served, as updates; up to max_bytes in `pages` in all. What there is no
 * room or memory for will be asked for.
 */
void dsm__server_push(struct dsm_server *s, uint64_t start, uint64_t end,
                      size_t max_bytes, struct dsm_extents *updates,
                      struct dsm_wbuf *pages);

/* What workers were given of the page at addr, outside the heap and as of now in this
 * run; NULL: nothing, or what is kept of it is worthless. Valid until the next call. */
const uint8_t *dsm__server_copy(struct dsm_server *s, uint64_t addr);

/* Pages served so far, by message. */
uint64_t dsm__server_pages_served(const struct dsm_server *s);

#endif
