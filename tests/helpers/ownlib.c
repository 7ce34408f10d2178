/* A library of the program's own, for tests/e2e/shared.c: loaded at its start or
 * later. */
int own_data = 5;         /* .data */
int own_bss[3000];        /* .bss, more than a page */
static int hidden = 100;  /* reached through a function only */
__thread int own_tls = 7; /* thread-local */
const int own_constant = 9;

int own_count(void);
int *own_tls_address(void);

int
own_count(void)
{
	return ++hidden;
}

int *
own_tls_address(void)
{
	return &own_tls;
}
