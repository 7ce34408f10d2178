/*
 * taskrt for C++17: the calls of <taskrt/taskrt.h> with lambdas, containers and
 * exceptions. Only this header is needed, and the library of the C interface.
 *
 *   #include <taskrt/taskrt.hpp>
 *
 *   taskrt::vector<double> a(n);
 *   taskrt::parallel_for(0, n, [&](auto i) { a[i] = f(i); });
 *   taskrt::run([&] { left = solve(l); }, [&] { right = solve(r); });
 *
 * All that doc/MANUAL.md says of tasks holds: a task sees memory as it was at the
 * launch, its writes are in place when the call returns, and two that write one byte are
 * a race. Lambdas may capture anything by reference. Any container may grow in a
 * task; taskrt::vector and taskrt::allocator keep its elements in the heap of
 * dsm_malloc, which travels best and has names in reports.
 *
 * A run that fails throws taskrt::error, which holds the report. An exception that
 * leaves a task makes this task fail: the report has its type and what(). Exceptions
 * thrown and caught inside a task are its own business.
 */
#ifndef TASKRT_TASKRT_HPP
#define TASKRT_TASKRT_HPP

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iterator>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#include <cxxabi.h>

#include <taskrt/taskrt.h>

namespace taskrt
{

/* --- options and reports --- */

/* As struct taskrt_options, which says what each is; zero means default. */
struct options {
	std::size_t chunk = 0;
	unsigned max_slots = 0;
	std::chrono::milliseconds timeout{0}; /* per task */
	unsigned retries = 0;
	bool keep_partial = false;
	bool fail_fast = false;
	bool no_copies = false;
	std::string name{}; /* {}: may be left out without a warning */
};

struct failure {
	std::size_t task;
	int kind; /* enum taskrt_kind */
	int signal;
	void *addr;
	std::string message, backtrace;
};

struct race {
	std::size_t task_a, task_b; /* or TASKRT_CLIENT */
	void *addr;
	std::size_t len;
	std::string message;
};

/* As struct taskrt_report, but a copy: it stays as it is. */
struct report {
	int code = TASKRT_OK;
	std::string message;
	std::vector<taskrt::failure> failures; /* root causes first */
	std::size_t n_races = 0; /* found; races has 100 at most */
	std::vector<race> races;
	taskrt_counters counters{};
};

/* Of the calling thread's last run. */
inline report
last_report()
{
	const struct taskrt_report *from = taskrt_report();
	const std::size_t listed = from->n_races < 100 ? from->n_races : 100;
	report r;

	r.code = from->error;
	r.message = from->message;
	r.counters = from->counters;
	r.n_races = from->n_races;
	for (std::size_t i = 0; i < from->n_failures; i++) {
		const taskrt_failure &f = from->failures[i];

		r.failures.push_back(
		    {f.task, f.kind, f.signal, f.addr, f.message, f.backtrace});
	}
	for (std::size_t i = 0; i < listed && from->races != nullptr; i++) {
		const taskrt_race &x = from->races[i];

		r.races.push_back(
		    {x.task_a, x.task_b, x.addr, x.len, x.message});
	}
	return r;
}

/* A run that failed: nothing was committed, unless options::keep_partial. */
class error : public std::runtime_error
{
      public:
	explicit error(taskrt::report r)
	    : std::runtime_error(r.message.empty() ? taskrt_strerror(r.code)
	                                           : r.message),
	      report_(std::make_shared<const taskrt::report>(std::move(r)))
	{
	}
	/* TASKRT_ERACE, TASKRT_ETASK, … */
	int
	code() const noexcept
	{
		return report_->code;
	}
	const taskrt::report &
	report() const noexcept
	{
		return *report_;
	}

      private:
	std::shared_ptr<const taskrt::report> report_; /* copies do not throw */
};

/* --- memory --- */

/* The heap of dsm_malloc for standard containers. */
template <class T> struct allocator {
	using value_type = T;
	using is_always_equal = std::true_type;

	allocator() = default;
	template <class U> allocator(const allocator<U> &) noexcept
	{
	}

	T *
	allocate(std::size_t n)
	{
		void *p;

		if (n > std::numeric_limits<std::size_t>::max() / sizeof(T))
			throw std::bad_array_new_length();
		if constexpr (alignof(T) > alignof(std::max_align_t))
			p = dsm_aligned_alloc(alignof(T), n * sizeof(T));
		else
			p = dsm_malloc(n * sizeof(T));
		if (p == nullptr)
			throw std::bad_alloc();
		return static_cast<T *>(p);
	}
	void
	deallocate(T *p, std::size_t) noexcept
	{
		dsm_free(p);
	}
	template <class U>
	friend bool
	operator==(const allocator &, const allocator<U> &) noexcept
	{
		return true;
	}
	template <class U>
	friend bool
	operator!=(const allocator &, const allocator<U> &) noexcept
	{
		return false;
	}
};

template <class T> using vector = std::vector<T, allocator<T>>;

/* --- inside --- */

namespace detail
{

/* In a catch block: ends the task. */
[[noreturn]] inline void
fail_with_exception(const char *what) noexcept
{
	const std::type_info *type = abi::__cxa_current_exception_type();
	const char *name = type != nullptr ? type->name() : "?";
	int status = -1;
	char *readable = abi::__cxa_demangle(name, nullptr, nullptr, &status);
	char text[500];

	std::snprintf(text, sizeof(text), "uncaught exception %s%s%s",
	              status == 0 ? readable : name,
	              what != nullptr ? ": " : "", what != nullptr ? what : "");
	taskrt_fail(text);
}

template <class F>
void
guarded(F &&f)
{
#if defined(__cpp_exceptions)
	try {
		f();
	} catch (const std::exception &e) {
		fail_with_exception(e.what());
	} catch (const char *text) {
		fail_with_exception(text);
	} catch (...) {
		fail_with_exception(nullptr);
	}
#else
	f();
#endif
}

inline void
check(int code)
{
	if (code == TASKRT_OK)
		return;
#if defined(__cpp_exceptions)
	throw error(last_report());
#else
	taskrt_report_print(stderr);
	std::abort();
#endif
}

inline taskrt_options
to_c(const options &o)
{
	const auto ms = o.timeout.count();
	const auto most = std::numeric_limits<unsigned>::max();
	taskrt_options c{};

	c.chunk = o.chunk;
	c.max_slots = o.max_slots;
	c.timeout_ms = ms <= 0 ? 0
	               : static_cast<unsigned long long>(ms) > most
	                   ? most
	                   : static_cast<unsigned>(ms);
	c.retries = o.retries;
	c.keep_partial = o.keep_partial;
	c.fail_fast = o.fail_fast;
	c.no_copies = o.no_copies;
	c.name = o.name.empty() ? nullptr : o.name.c_str();
	return c;
}

/* A callable as a task. It stays where it is; functions have no other address than
 * that of their code. */
template <class F> struct task {
	F *f;

	static void
	call(void *self)
	{
		guarded([&] { (*static_cast<task *>(self)->f)(); });
	}
};

template <class F> using task_of = task<std::remove_reference_t<F>>;

template <class I, class J>
using index_of =
    std::enable_if_t<std::is_integral_v<I> && std::is_integral_v<J>,
                     std::common_type_t<I, J>>;

/* Integers [first, last) as the iterations of taskrt_for: the same numbers, so that
 * reports name them, unless some are negative. */
template <class I> struct iterations {
	using unsigned_type = std::make_unsigned_t<I>;

	std::size_t begin, end;
	unsigned_type offset; /* of iteration 0 */

	iterations(I first, I last)
	    : begin(counted_from(first)), end(begin),
	      offset(static_cast<unsigned_type>(number(first) - number(begin)))
	{
		if (first < last)
			end += static_cast<unsigned_type>(number(last) -
			                                  number(first));
	}
	I
	operator[](std::size_t i) const
	{
		return static_cast<I>(
		    static_cast<unsigned_type>(offset + number(i)));
	}

      private:
	template <class J>
	static unsigned_type
	number(J j)
	{
		return static_cast<unsigned_type>(j);
	}
	static std::size_t
	counted_from(I first)
	{
		if constexpr (std::is_signed_v<I>)
			if (first < 0)
				return 0;
		return static_cast<std::size_t>(first);
	}
};

/* f(i) for i in [begin, end). f stays where it is. */
template <class F>
void
loop(std::size_t begin, std::size_t end, F &f, const options &o)
{
	const taskrt_options c = to_c(o);

	check(taskrt_for(
	    begin, end,
	    [](std::size_t i, void *ctx) {
		    guarded([&] { (*static_cast<F *>(ctx))(i); });
	    },
	    &f, &c));
}

template <class... F, std::size_t... I>
void
bunch(std::tuple<F...> &tasks, std::index_sequence<I...>, const options &o)
{
	const std::array<taskrt_task, sizeof...(F)> list = {
	    {{&F::call, &std::get<I>(tasks)}...}};
	const taskrt_options c = to_c(o);

	check(taskrt_run(list.data(), list.size(), &c));
}

} // namespace detail

/* --- runs --- */

/* Each callable is a task: f(). They run in one bunch, isolated from each other. */
template <class... F>
std::enable_if_t<(std::is_invocable_v<F &> && ...)>
run(const options &o, F &&...f)
{
	std::tuple<detail::task_of<F>...> tasks{{std::addressof(f)}...};

	detail::bunch(tasks, std::index_sequence_for<F...>{}, o);
}

template <class... F>
std::enable_if_t<(std::is_invocable_v<F &> && ...)>
run(F &&...f)
{
	run(options{}, std::forward<F>(f)...);
}

/* The same for a range of callables of one type: std::vector<std::function<void()>>
 * and the like. */
template <class Range>
auto
run_all(Range &&range, const options &o = {})
    -> std::enable_if_t<std::is_invocable_v<decltype(*std::begin(range))>>
{
	using reference = decltype(*std::begin(range));
	using task = detail::task_of<reference>;
	static_assert(std::is_lvalue_reference_v<reference>,
	              "a task must have an address");
	std::vector<task> tasks;
	std::vector<taskrt_task> list;
	const taskrt_options c = detail::to_c(o);

	for (auto &&f : range)
		tasks.push_back({std::addressof(f)});
	for (auto &t : tasks)
		list.push_back({&task::call, &t});
	detail::check(taskrt_run(list.data(), list.size(), &c));
}

/* body(i) for i in [begin, end), any integers. In a report `task` is i; where begin
 * is negative, i - begin. */
template <class I, class J, class Body>
std::enable_if_t<std::is_invocable_v<Body &, detail::index_of<I, J>>>
parallel_for(I begin, J end, Body &&body, const options &o = {})
{
	using index = detail::index_of<I, J>;
	const detail::iterations<index> all(static_cast<index>(begin),
	                                    static_cast<index>(end));
	auto one = [&body, &all](std::size_t i) { body(all[i]); };

	detail::loop(all.begin, all.end, one, o);
}

/* body(lo, hi) for parts [lo, hi) of [begin, end): a call a chunk. */
template <class I, class J, class Body>
std::enable_if_t<
    std::is_invocable_v<Body &, detail::index_of<I, J>, detail::index_of<I, J>>>
parallel_for_range(I begin, J end, Body &&body, const options &o = {})
{
	using index = detail::index_of<I, J>;
	const detail::iterations<index> all(static_cast<index>(begin),
	                                    static_cast<index>(end));
	auto part = [&body, &all](std::size_t lo, std::size_t hi) {
		body(all[lo], all[hi]);
	};
	using part_type = decltype(part);
	const taskrt_options c = detail::to_c(o);

	detail::check(taskrt_for_range(
	    all.begin, all.end,
	    [](std::size_t lo, std::size_t hi, void *ctx) {
		    detail::guarded(
		        [&] { (*static_cast<part_type *>(ctx))(lo, hi); });
	    },
	    &part, &c));
}

/*
 * body(*it) for every element of [first, last): forward iterators at least. What
 * cannot be indexed (lists, maps) is walked once first, for the addresses of its
 * elements. In a report `task` is the element's index.
 */
template <class Iterator, class Body>
std::enable_if_t<std::is_invocable_v<
    Body &, typename std::iterator_traits<Iterator>::reference>>
parallel_for_each(Iterator first, Iterator last, Body &&body,
                  const options &o = {})
{
	using traits = std::iterator_traits<Iterator>;
	using category = typename traits::iterator_category;

	static_assert(std::is_base_of_v<std::forward_iterator_tag, category>,
	              "elements must stay while others are visited");
	if constexpr (std::is_base_of_v<std::random_access_iterator_tag,
	                                category>) {
		auto one = [&body, first](std::size_t i) {
			body(
			    first[static_cast<typename traits::difference_type>(
			        i)]);
		};

		detail::loop(
		    0,
		    first < last ? static_cast<std::size_t>(last - first) : 0,
		    one, o);
	} else {
		vector<Iterator> all;
		for (; first != last; ++first)
			all.push_back(first);
		auto one = [&body, &all](std::size_t i) { body(*all[i]); };

		detail::loop(0, all.size(), one, o);
	}
}

template <class Container, class Body>
auto
parallel_for_each(Container &&container, Body &&body, const options &o = {})
    -> std::enable_if_t<
        std::is_invocable_v<Body &, decltype(*std::begin(container))>>
{
	parallel_for_each(std::begin(container), std::end(container),
	                  std::forward<Body>(body), o);
}

} // namespace taskrt

#endif
