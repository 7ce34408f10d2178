/*
 * taskrt.hpp, and C++ in tasks at large: everything comes out as it does locally.
 * Run by cpp.sh in several configurations; arguments and output as in cases.h.
 */
#include <algorithm>
#include <array>
#include <cfenv>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <functional>
#include <iomanip>
#include <iostream>
#include <list>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <sstream>
#include <string>
#include <typeinfo>
#include <unordered_map>
#include <variant>
#include <vector>

#include <unistd.h>

#include <taskrt/taskrt.hpp>

#include "../helpers/cases.h"

/* The error that f throws; code 0 when it throws none. */
template <class F>
static taskrt::report
error_of(F f)
{
	try {
		f();
	} catch (const taskrt::error &e) {
		return e.report();
	}
	return {};
}

static bool
has(const std::string &text, const char *part)
{
	return text.find(part) != std::string::npos;
}

/* --- the calls --- */

static int plain_calls;

static void
plain_function()
{
	plain_calls += 5;
}

static void
lambdas_and_functions_run_as_tasks()
{
	int left = 0, right = 0;
	std::string text = "text";
	const auto constant = [&right] { right = 2; };

	plain_calls = 0;
	taskrt::run([&] { left = 1; }, constant, plain_function,
	            [&text, copy = std::string(100, 'x')]() mutable {
		            copy += "y";
		            text += copy;
	            });
	CHECK(left == 1 && right == 2 && plain_calls == 5);
	CHECK(text.size() == 105 && text.back() == 'y');
	taskrt::options named;
	named.name = "with a name";
	taskrt::run(named, [&] { left = 3; });
	CHECK(left == 3);
}

static void
a_range_of_functions_runs_as_a_bunch()
{
	std::vector<std::function<void()>> all;
	std::vector<int> results(20);

	for (int i = 0; i < 20; i++)
		all.push_back([i, &results] { results[i] = i * i; });
	taskrt::run_all(all);
	for (int i = 0; i < 20; i++)
		CHECK(results[i] == i * i);
	taskrt::run_all(std::vector<void (*)()>{});
}

static void
loops_take_integers_of_any_type()
{
	std::vector<long> v(201);
	const size_t n = v.size();

	taskrt::parallel_for(-100, 101, [&](int i) { v[i + 100] = i; });
	for (int i = -100; i <= 100; i++)
		CHECK(v[i + 100] == i);
	taskrt::parallel_for(0, n, [&](auto i) {
		static_assert(std::is_same_v<decltype(i), size_t>);
		v[i] = static_cast<long>(2 * i);
	});
	CHECK(v[200] == 400);
	taskrt::parallel_for(INT64_MIN, INT64_MIN + 2,
	                     [&](int64_t i) { v[i - INT64_MIN] = -7; });
	CHECK(v[0] == -7 && v[1] == -7 && v[2] == 4);
	taskrt::parallel_for(UINT8_C(250), UINT8_C(255),
	                     [&](unsigned i) { v[i - 250u] = 9; });
	CHECK(v[0] == 9 && v[4] == 9 && v[5] == 10);
	taskrt::parallel_for(5, 5, [&](int) { v[0] = 1; });
	taskrt::parallel_for(5, -5, [&](int) { v[0] = 1; });
	CHECK(v[0] == 9);
}

static void
ranges_cover_every_index_once()
{
	taskrt::vector<unsigned char> seen(1000);

	taskrt::parallel_for_range(-500, 500, [&](int lo, int hi) {
		for (int i = lo; i < hi; i++)
			seen[static_cast<size_t>(i + 500)]++;
	});
	CHECK(std::count(seen.begin(), seen.end(), 1) == 1000);
}

static void
for_each_visits_the_elements_of_any_container()
{
	taskrt::vector<double> v(500, 2.0);
	std::list<int> list(50, 1);
	std::map<std::string, int> map;
	std::array<int, 10> array{};
	int plain[4] = {1, 2, 3, 4};

	for (int i = 0; i < 30; i++)
		map["key " + std::to_string(i)] = i;
	taskrt::parallel_for_each(v, [](double &x) { x = std::sqrt(x); });
	CHECK(std::all_of(v.begin(), v.end(),
	                  [](double x) { return x == std::sqrt(2.0); }));
	taskrt::parallel_for_each(list, [](int &x) { x++; });
	CHECK(std::accumulate(list.begin(), list.end(), 0) == 100);
	taskrt::parallel_for_each(map, [](auto &pair) {
		pair.second *= static_cast<int>(pair.first.size());
	});
	CHECK(map["key 3"] == 15 && map["key 12"] == 72);
	taskrt::parallel_for_each(array.begin() + 1, array.end(),
	                          [](int &x) { x = 8; });
	CHECK(array[0] == 0 && array[9] == 8);
	taskrt::parallel_for_each(plain, [](int &x) { x = -x; });
	CHECK(plain[3] == -4);
}

/* --- errors --- */

static void
a_race_is_an_exception_with_the_report()
{
	int both = 0, own = 0;
	const auto r = error_of([&] {
		taskrt::run([&] { both = 1; }, [&] { own = 1; },
		            [&] { both = 2; });
	});

	CHECK(r.code == TASKRT_ERACE && r.n_races == 1);
	CHECK(r.races[0].task_a == 0 && r.races[0].task_b == 2);
	CHECK(r.races[0].addr == &both);
	CHECK(both == 0 && own == 0);
	try {
		taskrt::run([&] { both = 1; }, [&] { both = 2; });
	} catch (const std::runtime_error &e) {
		CHECK(has(e.what(), "both wrote"));
		own = 77;
	}
	CHECK(own == 77);
	/* The report stays as it was, whatever runs after it. */
	taskrt::run([&] { own = 1; });
	CHECK(taskrt::last_report().code == 0);
	CHECK(has(r.message, "both wrote"));
}

namespace weather
{
struct storm : std::runtime_error {
	using std::runtime_error::runtime_error;
};
template <class T> struct odd {
	T value;
};
} // namespace weather

static void
an_exception_that_escapes_is_reported_with_type_and_what()
{
	int x = 0;
	auto r = error_of([&] {
		taskrt::run([&] { x = 1; },
		            [] { throw weather::storm("wind of 12"); },
		            [] { throw 5; }, [] { throw "just text"; },
		            [] { throw weather::odd<int>{3}; });
	});

	CHECK(r.code == TASKRT_ETASK && r.failures.size() == 4 && x == 0);
	CHECK(r.failures[0].task == 1 && r.failures[0].kind == TASKRT_CRASH);
	CHECK(r.failures[0].message ==
	      "uncaught exception weather::storm: wind of 12");
	CHECK(r.failures[1].message == "uncaught exception int");
	CHECK(r.failures[2].message ==
	      "uncaught exception char const*: just text");
	CHECK(r.failures[3].message == "uncaught exception weather::odd<int>");
	r = error_of([&] {
		taskrt::parallel_for(10, 60, [](int i) {
			if (i == 33)
				std::vector<int>().at(7);
		});
	});
	CHECK(r.failures.size() == 1 && r.failures[0].task == 33);
	CHECK(has(r.failures[0].message, "std::out_of_range: vector::"));
}

static void
throw_storm(void *)
{
	throw weather::storm("nobody is prepared");
}

static void
from_the_c_interface_it_is_told_by_the_runtime_s_last_words()
{
	taskrt_task t = {throw_storm, nullptr};

	CHECK(taskrt_run(&t, 1, nullptr) == TASKRT_ETASK);
	const taskrt::report r = taskrt::last_report();
	CHECK(r.failures[0].signal == SIGABRT);
	CHECK(has(r.failures[0].message, "weather::storm"));
	CHECK(has(r.failures[0].message, "nobody is prepared"));
}

struct guard {
	int &count;
	~guard()
	{
		count++;
	}
};

static void
recurse_and_throw(int depth, int &unwound)
{
	guard g{unwound};

	if (depth == 0)
		throw weather::storm("from the depths");
	recurse_and_throw(depth - 1, unwound);
}

static void
exceptions_inside_a_task_work()
{
	int unwound = 0, caught = 0;
	std::string text;

	taskrt::run([&] {
		for (int i = 0; i < 50; i++) {
			try {
				try {
					recurse_and_throw(20, unwound);
				} catch (const weather::storm &) {
					throw;
				}
			} catch (const std::exception &e) {
				text = e.what();
				caught++;
			}
		}
		std::exception_ptr kept;
		try {
			text.at(100);
		} catch (...) {
			kept = std::current_exception();
		}
		try {
			std::rethrow_exception(kept);
		} catch (const std::out_of_range &) {
			caught += 1000;
		}
		try {
			(void)std::get<int>(
			    std::variant<int, std::string>("no int"));
		} catch (const std::bad_variant_access &) {
			caught += 10000;
		}
	});
	CHECK(unwound == 21 * 50 && caught == 11050);
	CHECK(text == "from the depths");
}

static void
options_are_passed_on()
{
	std::vector<int> v(20);
	taskrt::options o;

	o.keep_partial = true;
	o.chunk = 1;
	auto r = error_of([&] {
		taskrt::parallel_for(
		    0, 20,
		    [&](int i) {
			    v[i] = i == 4 ? throw weather::storm("4") : 1;
		    },
		    o);
	});
	CHECK(r.failures.size() == 1 && r.failures[0].task == 4);
	CHECK(std::accumulate(v.begin(), v.end(), 0) == 19 && v[4] == 0);
	o = {};
	o.timeout = std::chrono::milliseconds(200);
	r = error_of([&] {
		taskrt::run(o, [] {
			for (volatile int i = 0; i >= 0; i = i ^ 1)
				;
		});
	});
	CHECK(r.failures.size() == 1);
	CHECK(r.failures[0].kind == TASKRT_TIMEOUT);
}

/* --- memory --- */

static void
vectors_of_the_shared_heap_grow_in_tasks()
{
	taskrt::vector<taskrt::vector<int>> v(8);
	struct alignas(64) wide {
		double x[8];
	};
	taskrt::vector<wide> aligned(3);

	for (int round = 1; round <= 3; round++) {
		taskrt::parallel_for(0, 8, [&](int i) {
			for (int k = 0; k < 1000 * (i + 1); k++)
				v[i].push_back(k);
		});
		for (int i = 0; i < 8; i++)
			CHECK(v[i].size() ==
			      static_cast<size_t>(round * 1000 * (i + 1)));
	}
	CHECK(v[7][7999] == 7999 && v[7][8000] == 0);
	CHECK(reinterpret_cast<uintptr_t>(aligned.data()) % 64 == 0);
	/* What tasks allocated is freed here, what is from here in tasks. */
	taskrt::parallel_for_each(v, [](auto &x) {
		x.clear();
		x.shrink_to_fit();
	});
	CHECK(v[3].empty());
}

struct tree {
	int value;
	std::unique_ptr<tree> left, right;
};

static std::unique_ptr<tree>
grow(int lo, int hi)
{
	if (lo >= hi)
		return nullptr;
	const int mid = (lo + hi) / 2;
	auto t = std::make_unique<tree>();

	t->value = mid;
	t->left = grow(lo, mid);
	t->right = grow(mid + 1, hi);
	return t;
}

static long
sum(const tree *t)
{
	return t == nullptr
	           ? 0
	           : t->value + sum(t->left.get()) + sum(t->right.get());
}

struct world {
	std::vector<std::string> words;
	std::string text;
	std::list<int> list;
	std::map<int, std::string> names;
	std::unordered_map<std::string, std::vector<int>> index;
	std::set<std::string> set;
	std::unique_ptr<tree> root;
	std::shared_ptr<std::string> shared;
};

static void
grow_world(world &w, int seed)
{
	for (int i = 0; i < 300; i++) {
		const int k = seed * 1000 + i * 37 % 300;
		const std::string word = "word number " + std::to_string(k);

		w.words.push_back(word);
		w.text += word.substr(0, 6);
		w.list.push_front(k);
		w.names[k % 97] += 'x';
		w.index[word.substr(10)].push_back(k);
		w.set.insert(word);
	}
	w.list.sort();
	w.words.erase(w.words.begin(), w.words.begin() + 100);
	w.names.erase(w.names.begin());
	w.root = grow(0, 200 + seed);
	w.shared =
	    std::make_shared<std::string>(w.text.rbegin(), w.text.rend());
}

static bool
same(const world &a, const world &b)
{
	return a.words == b.words && a.text == b.text && a.list == b.list &&
	       a.names == b.names && a.index == b.index && a.set == b.set &&
	       sum(a.root.get()) == sum(b.root.get()) && *a.shared == *b.shared;
}

static void
containers_grow_in_tasks_as_they_do_locally()
{
	for (int round = 0; round < 3; round++) {
		std::vector<world> ours(6), theirs(6);

		for (int times = 0; times < 2; times++) {
			for (int i = 0; i < 6; i++)
				grow_world(ours[i], round * 10 + i);
			taskrt::parallel_for(0, 6, [&](int i) {
				grow_world(theirs[i], round * 10 + i);
			});
			for (int i = 0; i < 6; i++)
				CHECK(same(ours[i], theirs[i]));
		}
		/* All is freed, here, and half of it in tasks. */
		taskrt::parallel_for(0, 3, [&](int i) { theirs[i] = {}; });
		CHECK(theirs[0].words.empty() && theirs[2].root == nullptr);
	}
}

/* --- the language and its library --- */

struct shape {
	virtual ~shape() = default;
	virtual double area() const = 0;
};
struct square : shape {
	double side;
	explicit square(double s) : side(s)
	{
	}
	double
	area() const override
	{
		return side * side;
	}
};
struct circle : shape {
	double r;
	explicit circle(double radius) : r(radius)
	{
	}
	double
	area() const override
	{
		return 3 * r * r;
	}
};

static void
virtual_calls_and_types_work()
{
	std::vector<std::unique_ptr<shape>> shapes(40);
	std::vector<double> areas(40);
	std::vector<std::string> types(40);

	for (int i = 0; i < 20; i++)
		shapes[i] = std::make_unique<square>(i);
	taskrt::parallel_for(0, 40, [&](int i) {
		if (i >= 20) /* born in a task */
			shapes[i] = std::make_unique<circle>(i);
		const shape &one = *shapes[i];
		areas[i] = one.area();
		types[i] = typeid(one).name();
		if (dynamic_cast<square *>(shapes[i].get()) != nullptr)
			types[i] += "!";
	});
	for (int i = 0; i < 40; i++) {
		CHECK(areas[i] == (i < 20 ? i * i : 3 * i * i));
		CHECK(shapes[i]->area() == areas[i]);
		CHECK((types[i].back() == '!') == (i < 20));
	}
}

static int
twice(int x)
{
	return 2 * x;
}
static int
thrice(int x)
{
	return 3 * x;
}

static int (*const operations[])(int) = {twice, thrice};
static const char *const words[] = {"zero", "one", "two", "three"};
static std::map<std::string, int (*)(int)> by_name = {{"twice", twice},
                                                      {"thrice", thrice}};

static void
tables_and_function_pointers_work()
{
	std::array<int, 40> out{}, want{};
	int (*changing)(int) = thrice;
	std::function<int(int)> bound = [&changing](int x) {
		return changing(x) + 1;
	};
	const auto body = [&](int i, std::array<int, 40> &to) {
		to[i] = operations[i % 2](i) + by_name["twice"](i) + bound(i) +
		        static_cast<int>(std::strlen(words[i % 4]));
	};

	changing = twice;
	for (int i = 0; i < 40; i++)
		body(i, want);
	taskrt::parallel_for(0, 40, [&](int i) { body(i, out); });
	CHECK(out == want);
}

static int
by_value(const void *a, const void *b)
{
	const long double x = *static_cast<const long double *>(a);
	const long double y = *static_cast<const long double *>(b);

	return (x > y) - (x < y);
}

/* What goes through the C and C++ libraries, all types of numbers included. */
static std::string
long_story(int seed)
{
	long double v[64], total = 0.1L;
	std::ostringstream out;
	char buf[200];
	char *end;

	for (int i = 0; i < 64; i++)
		v[i] =
		    std::sin(static_cast<long double>(i * 7 + seed)) * 1e1000L;
	std::qsort(v, 64, sizeof(v[0]), by_value);
	for (const long double x : v)
		total = total / 3 + x;
	std::snprintf(buf, sizeof(buf), "%d|%-8s|%+.17g|%La|%s|%zu", seed,
	              words[seed % 4], std::exp(seed * 0.01), total,
	              std::string(seed % 30, '#').c_str(), sizeof(v));
	out << buf << '|' << std::setprecision(12) << std::hex << std::showbase
	    << seed * 1000 << '|' << std::fixed
	    << std::strtod(" 12.5e-3xyz", &end) << end << '|'
	    << std::stold("0.333333333333333333333") << '|' << std::boolalpha
	    << (std::fesetround(FE_UPWARD) == 0) << '|' << std::rint(2.5) << '|'
	    << (std::fesetround(FE_TONEAREST) == 0);
	std::istringstream in("17 4.5 word");
	int n;
	double d;
	std::string w;
	in >> n >> d >> w;
	return out.str() + std::to_string(n * d) + w;
}

static void
libraries_answer_as_they_do_locally()
{
	std::vector<std::string> got(60);

	taskrt::parallel_for(0, 60, [&](int i) { got[i] = long_story(i); });
	for (int i = 0; i < 60; i++)
		CHECK(got[i] == long_story(i));
}

static void
cout_and_optind_are_private_to_a_task()
{
	/* Both write into the stream's own state. */
	const auto print = [](int width) {
		std::cout.width(width);
		std::cout << "x\n" << std::flush;
		std::cout.precision(width);
		optind = width;
	};

	taskrt::run([&] { print(3); }, [&] { print(5); });
	CHECK(std::cout.precision() == 6 && optind == 1);
}

static thread_local int per_thread = 5;

static int
once()
{
	static int value = [] { return per_thread * 2; }();

	return value++;
}

static void
statics_are_made_in_a_task_and_stay()
{
	int first = 0, changed = 0;

	taskrt::run([&] {
		first = once();
		per_thread = 9;
		changed = per_thread;
	});
	CHECK(first == 10 && changed == 9);
	CHECK(per_thread == 5); /* thread-local: dropped with the task */
	CHECK(once() == 11);
}

static const std::vector<int> &
table()
{
	static const std::vector<int> squares = {0, 1, 4, 9};

	return squares;
}

static void
a_static_that_two_tasks_make_is_named_with_the_remedy()
{
	int result[2] = {0, 0};
	std::string all;
	auto use = [&](int i) { result[i] = table()[3]; };
	taskrt::options apart;

	apart.chunk = 1;
	taskrt::report r =
	    error_of([&] { taskrt::parallel_for(0, 2, use, apart); });
	CHECK(r.code == TASKRT_ERACE);
	for (const auto &race : r.races)
		all += race.message;
	CHECK(all.find("use it once before the launch") != all.npos);
	CHECK(all.find("guard variable for table()::squares") != all.npos);
	table();
	taskrt::parallel_for(0, 2, use, apart);
	CHECK(result[0] == 9 && result[1] == 9);
}

/* --- the list --- */

/* An exception that a case lets out is its failure. */
template <void (*fn)()>
static void
caught()
{
	try {
		fn();
	} catch (const std::exception &e) {
		cases_fail(__FILE__, __LINE__, e.what());
	}
}

static const cases_one cases[] = {
#define CAUGHT(fn)                \
	{                         \
#fn, caught < fn> \
	}
    CAUGHT(lambdas_and_functions_run_as_tasks),
    CAUGHT(a_range_of_functions_runs_as_a_bunch),
    CAUGHT(loops_take_integers_of_any_type),
    CAUGHT(ranges_cover_every_index_once),
    CAUGHT(for_each_visits_the_elements_of_any_container),
    CAUGHT(a_race_is_an_exception_with_the_report),
    CAUGHT(an_exception_that_escapes_is_reported_with_type_and_what),
    CAUGHT(from_the_c_interface_it_is_told_by_the_runtime_s_last_words),
    CAUGHT(exceptions_inside_a_task_work),
    CAUGHT(options_are_passed_on),
    CAUGHT(vectors_of_the_shared_heap_grow_in_tasks),
    CAUGHT(containers_grow_in_tasks_as_they_do_locally),
    CAUGHT(virtual_calls_and_types_work),
    CAUGHT(tables_and_function_pointers_work),
    CAUGHT(libraries_answer_as_they_do_locally),
    CAUGHT(cout_and_optind_are_private_to_a_task),
    CAUGHT(statics_are_made_in_a_task_and_stay),
    CAUGHT(a_static_that_two_tasks_make_is_named_with_the_remedy),
    {},
};

int
main(int argc, char **argv)
{
	static const cases_group groups[] = {{"cpp", cases}, {}};

	return cases_main(groups, argc, argv);
}
