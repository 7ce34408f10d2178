/*
 * blackscholes - price a European call option by Monte Carlo.
 *
 * Next to no data, and all of libm: what shows is how soon every core has got
 * work. Each task draws its own random numbers, which depend on nothing but its
 * index; so the price is the same to the last bit wherever the tasks ran.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include <taskrt/taskrt.h>

#include "common/example.h"

/* What a task has found: sums over its paths. */
struct sample {
	double payoff, square;
};

static uint64_t n_paths = 100000000, n_tasks = 1000;

/* The option. Tasks read these globals. */
static uint64_t spot = 100, strike = 105, rate = 5, volatility = 20, days = 365;

static struct sample *samples; /* shared: one for each task */

static double
years(void)
{
	return (double)days / 365;
}

/* Above 0, up to 1. */
static double
uniform(uint64_t *state)
{
	*state += 0x9e3779b97f4a7c15;
	return (double)((example_mix(*state) >> 11) + 1) * 0x1p-53;
}

/* A path on which the share grows by exp(growth). */
static void
add_path(struct sample *sum, double growth)
{
	double payoff = fmax((double)spot * exp(growth) - (double)strike, 0);

	sum->payoff += payoff;
	sum->square += payoff * payoff;
}

/* Paths of that task: all of them together are n_paths. */
static uint64_t
paths_of(size_t task)
{
	return n_paths / n_tasks + (task < n_paths % n_tasks);
}

/* The task. Box and Muller make two normal numbers out of two uniform ones. */
static void
simulate(size_t task, void *ctx)
{
	double r = (double)rate / 100, sigma = (double)volatility / 100;
	double drift = (r - sigma * sigma / 2) * years();
	double spread = sigma * sqrt(years());
	uint64_t state = example_mix(task);
	struct sample sum = {0};

	for (uint64_t i = 0; i < paths_of(task); i += 2) {
		double radius = spread * sqrt(-2 * log(uniform(&state)));
		double angle = 2 * M_PI * uniform(&state);

		add_path(&sum, drift + radius * cos(angle));
		if (i + 1 < paths_of(task))
			add_path(&sum, drift + radius * sin(angle));
	}
	((struct sample *)ctx)[task] = sum;
}

static int
run(enum example_mode mode)
{
	if (mode != EXAMPLE_TASKRT)
		return example_loop(mode, 0, n_tasks, 1, simulate, samples);
	return taskrt_for(0, n_tasks, simulate, samples,
	                  &(struct taskrt_options){.name = "blackscholes"});
}

static int
setup(void)
{
	samples = dsm_calloc(n_tasks, sizeof(*samples));
	if (samples == NULL) {
		perror("blackscholes");
		return -1;
	}
	dsm_name(samples, "samples");
	return 0;
}

static void
reset(void)
{
	memset(samples, 0, n_tasks * sizeof(*samples));
}

/* Distribution function of the standard normal distribution. */
static double
normal(double x)
{
	return erfc(-x / sqrt(2)) / 2;
}

/* Black and Scholes, 1973. */
static double
exact_price(void)
{
	double r = (double)rate / 100, sigma = (double)volatility / 100;
	double spread = sigma * sqrt(years());
	double d1 = (log((double)spot / (double)strike) +
	             (r + sigma * sigma / 2) * years()) /
	            spread;

	return (double)spot * normal(d1) -
	       (double)strike * exp(-r * years()) * normal(d1 - spread);
}

/*
 * Once in two million times, a right sample is more than five standard errors
 * off; the numbers are always the same, so it will be none of the usual sizes.
 */
static int
check(char *text, size_t size)
{
	double discount = exp(-(double)rate / 100 * years());
	struct sample all = {0};

	for (size_t i = 0; i < n_tasks; i++) {
		all.payoff += samples[i].payoff;
		all.square += samples[i].square;
	}
	double mean = all.payoff / (double)n_paths;
	double variance = all.square / (double)n_paths - mean * mean;
	double error = discount * sqrt(fmax(variance, 0) / (double)n_paths);
	double price = discount * mean, exact = exact_price();

	snprintf(text, size, "price %.12g +- %.2g, by the formula %.6f", price,
	         error, exact);
	/* The rounding of n_paths additions comes on top. */
	return fabs(price - exact) <= 5 * error + 1e-9 * exact ? 0 : -1;
}

static int
finish(void)
{
	dsm_free(samples);
	return 0;
}

int
main(int argc, char **argv)
{
	static const struct example_option options[] = {
	    {"paths", "N", "of the share's price", .number = &n_paths,
	     .min = 1000, .max = 1000000000000},
	    {"tasks", "N", "tasks", .number = &n_tasks, .min = 1,
	     .max = 1000000},
	    {"spot", "N", "the share's price now", .number = &spot, .min = 1,
	     .max = 1000000},
	    {"strike", "N", "what the option allows to buy it for",
	     .number = &strike, .min = 1, .max = 1000000},
	    {"rate", "N", "of interest, per cent a year", .number = &rate,
	     .min = 0, .max = 100},
	    {"volatility", "N", "of the share, per cent a year",
	     .number = &volatility, .min = 1, .max = 200},
	    {"days", "N", "until the option ends", .number = &days, .min = 1,
	     .max = 36500},
	    {0},
	};
	static const struct example blackscholes = {
	    .name = "blackscholes",
	    .summary = "Price a European call option by Monte Carlo.",
	    .options = options,
	    .setup = setup,
	    .reset = reset,
	    .run = run,
	    .check = check,
	    .finish = finish,
	};

	return example_main(&blackscholes, argc, argv);
}
