/*
 * C++ programs: containers captured by reference, virtual calls, std::function,
 * exceptions inside a task. Through the C interface; see behaviour.c for the form of
 * the output.
 */
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <unistd.h>

#include <taskrt/taskrt.h>

struct Shape {
	virtual ~Shape() = default;
	virtual double area() const = 0;
};
struct Square : Shape {
	double side;
	explicit Square(double s) : side(s)
	{
	}
	double
	area() const override
	{
		return side * side;
	}
};

struct World {
	std::vector<double> values;
	std::string text = "start";
	std::map<int, std::string> names;
	std::unique_ptr<Shape> shape;
	std::function<int(int)> times;
	double result = 0;
};

static void
change(void *arg)
{
	World &w = *static_cast<World *>(arg);

	std::sort(w.values.begin(), w.values.end());
	w.text += ", and what a task has to say, long enough to allocate";
	w.names[5] = "five";
	w.result = w.shape->area() + w.times(3);
	for (int i = 0; i < 1000; i++)
		w.values.push_back(i);
	try {
		throw std::runtime_error(" (thrown)");
	} catch (const std::exception &e) {
		w.text += e.what();
	}
}

static int failures;

static void
report(const char *name, bool good)
{
	const char *label = std::getenv("LABEL");

	std::printf("  %s %s%s%s\n", good ? "ok" : "FAIL",
	            label != nullptr ? label : "", label != nullptr ? ": " : "",
	            name);
	failures += !good;
}

static void
growth_in_a_task(int round)
{
	World w;
	int factor = 4;

	for (int i = 0; i < 1000; i++)
		w.values.push_back((i * 7919) % 1000);
	w.names[1] = "one";
	w.shape = std::make_unique<Square>(3);
	w.times = [&factor](int x) { return x * factor; };
	taskrt_task task = {change, &w};
	bool good = taskrt_run(&task, 1, nullptr) == 0;

	if (!good)
		taskrt_report_print(stderr);
	good = good && w.values.size() == 2000 && w.names.size() == 2 &&
	       w.names[5] == "five" && w.result == 21 &&
	       std::is_sorted(w.values.begin(), w.values.begin() + 1000) &&
	       w.text.size() > 60 &&
	       w.text.compare(w.text.size() - 8, 8, "(thrown)") == 0;
	/* What the task allocated is freed here, with World. */
	report(round == 0 ? "containers_grow_in_a_task"
	                  : "containers_grow_again_after_being_freed",
	       good);
}

static void
print(void *arg)
{
	/* Both write into the stream's own state. */
	std::cout.width(*static_cast<int *>(arg));
	std::cout << "x\n" << std::flush;
	std::cout.precision(*static_cast<int *>(arg));
	optind = *static_cast<int *>(arg);
}

static void
library_objects_in_the_program_are_private()
{
	int width[2] = {3, 5};
	taskrt_task tasks[2] = {{print, &width[0]}, {print, &width[1]}};
	int err = taskrt_run(tasks, 2, nullptr);

	report("std_cout_and_optind_are_private_to_a_task",
	       err == 0 && std::cout.precision() == 6 && optind == 1);
	if (err != 0)
		taskrt_report_print(stderr);
}

static void
uncaught(void *arg)
{
	(void)arg;
	throw std::runtime_error("nobody catches this");
}

static const std::vector<int> &
table()
{
	static const std::vector<int> squares = {0, 1, 4, 9};

	return squares;
}

static void
use_table(void *arg)
{
	*static_cast<int *>(arg) = table()[3];
}

static void
statics_initialised_in_tasks()
{
	int result[2] = {0, 0};
	taskrt_task tasks[2] = {{use_table, &result[0]},
	                        {use_table, &result[1]}};

	int err = taskrt_run(tasks, 2, nullptr);
	std::string all;
	for (std::size_t i = 0; i < taskrt_report()->n_races && i < 100; i++)
		all += taskrt_report()->races[i].message;
	report("a_static_that_two_tasks_initialise_is_named_with_the_remedy",
	       err == TASKRT_ERACE &&
	           all.find("use it once before the launch") != all.npos &&
	           all.find("guard variable for table()::squares") != all.npos);
	table();
	report("a_static_used_before_the_launch_is_no_race",
	       taskrt_run(tasks, 2, nullptr) == 0 && result[1] == 9);
}

int
main()
{
	library_objects_in_the_program_are_private();
	statics_initialised_in_tasks();
	growth_in_a_task(0);
	growth_in_a_task(1);
	taskrt_task task = {uncaught, nullptr};
	int err = taskrt_run(&task, 1, nullptr);
	report("an_uncaught_exception_is_one_failure",
	       err == TASKRT_ETASK && taskrt_report()->n_failures == 1 &&
	           taskrt_report()->failures[0].kind == TASKRT_CRASH);
	growth_in_a_task(1);
	return failures > 0;
}
