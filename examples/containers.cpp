/*
 * containers - C++ containers that tasks grow and the program uses and destroys.
 *
 * Each task writes a chapter of a book and an index of it: a string, a vector and
 * a list of strings, a map of vectors, an unordered_map, a tree of unique_ptr.
 * The book is captured by reference. In a second run the tasks go on with what
 * the first has made: containers grow further, entries are erased.
 */
#include <cinttypes>
#include <cstdio>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include <taskrt/taskrt.hpp>

extern "C" {
#include "common/example.h"
}

namespace
{

/* One letter after the other leads to the number of a word. */
struct Trie {
	std::map<char, std::unique_ptr<Trie>> next;
	uint64_t count = 0;
};

struct Chapter {
	std::string text;
	std::vector<std::string> words;   /* as they come */
	std::list<std::string> new_words; /* those not met before */
	std::map<std::string, std::vector<uint32_t>> places;
	std::unordered_map<std::string, uint64_t> counts;
	Trie trie;
};

uint64_t n_chapters = 40, n_words = 5000, n_different = 3000, rare = 2;

/* --- the text --- */

/* The word's number; low numbers are frequent. */
uint64_t
number_of(uint64_t chapter, uint64_t place)
{
	uint64_t h = example_mix(~(chapter * 2 * n_words + place));
	uint64_t limit = 1 + (h >> 32) % n_different;

	return (h & 0xffffffff) % limit;
}

/* No two numbers have the same word. Some are short enough for std::string to
 * keep them in itself, some are not. */
std::string
spell(uint64_t number)
{
	std::string word;

	do {
		word += "bdfgklmnprst"[number % 12];
		word += "aeiou"[number / 12 % 5];
		number /= 60;
	} while (number != 0);
	return word.size() > 4 ? word + word + word + word + word : word;
}

/* --- what the tasks do --- */

void
add_to_trie(Trie &trie, const std::string &word)
{
	Trie *t = &trie;

	for (char c : word) {
		std::unique_ptr<Trie> &next = t->next[c];
		if (!next)
			next = std::make_unique<Trie>();
		t = next.get();
	}
	t->count++;
}

void
write_words(Chapter &c, uint64_t chapter)
{
	uint64_t begin = c.words.size();

	for (uint64_t i = begin; i < begin + n_words; i++) {
		c.words.push_back(spell(number_of(chapter, i)));
		const std::string &word = c.words.back();

		c.text += word;
		c.text += i % 12 == 11 ? ".\n" : " ";
		if (c.counts[word]++ == 0)
			c.new_words.push_back(word);
		c.places[word].push_back(static_cast<uint32_t>(i));
		add_to_trie(c.trie, word);
	}
}

/* Words as rare as that are of no use in an index. */
void
strike_rare_words(Chapter &c)
{
	for (auto at = c.places.begin(); at != c.places.end();) {
		if (at->second.size() <= rare) {
			c.counts.erase(at->first);
			at = c.places.erase(at);
		} else {
			++at;
		}
	}
	c.new_words.remove_if([&c](const std::string &word) {
		return c.counts.count(word) == 0;
	});
}

/* body(i) for all chapters. */
template <class Body>
void
for_all(enum example_mode mode, Body &&body)
{
	taskrt::options options;

	options.name = "containers";
	switch (mode) {
	case EXAMPLE_TASKRT:
		taskrt::parallel_for(0, n_chapters, body, options);
		break;
	case EXAMPLE_OPENMP:
#pragma omp parallel for schedule(dynamic)
		for (uint64_t i = 0; i < n_chapters; i++)
			body(i);
		break;
	default:
		for (uint64_t i = 0; i < n_chapters; i++)
			body(i);
	}
}

std::vector<Chapter> book;

int
run(enum example_mode mode)
try {
	std::vector<Chapter> chapters(n_chapters);

	for_all(mode, [&](uint64_t i) { write_words(chapters[i], i); });
	for_all(mode, [&](uint64_t i) {
		write_words(chapters[i], i);
		strike_rare_words(chapters[i]);
	});
	book = std::move(chapters);
	return TASKRT_OK;
} catch (const taskrt::error &e) {
	return e.code();
}

/* --- is it right? --- */

uint64_t
count_in_trie(const Trie &trie, const std::string &word)
{
	const Trie *t = &trie;

	for (char c : word) {
		auto at = t->next.find(c);
		if (at == t->next.end())
			return 0;
		t = at->second.get();
	}
	return t->count;
}

/* What the index has to say about a word that occurs so often. */
bool
index_is_right(const Chapter &c, uint64_t chapter, uint64_t number,
               uint64_t count)
{
	std::string word = spell(number);
	auto at = c.places.find(word);
	auto counted = c.counts.find(word);

	if (count_in_trie(c.trie, word) != count)
		return false;
	if (count <= rare)
		return at == c.places.end() && counted == c.counts.end();
	if (at == c.places.end() || counted == c.counts.end())
		return false;
	for (uint32_t place : at->second) {
		if (number_of(chapter, place) != number)
			return false;
	}
	return at->second.size() == count && counted->second == count;
}

/* Counts the numbers of the words, without words. */
bool
chapter_is_right(const Chapter &c, uint64_t chapter)
{
	std::vector<uint64_t> count(n_different);
	uint64_t length = 0, n_kept = 0;

	for (uint64_t i = 0; i < 2 * n_words; i++) {
		uint64_t number = number_of(chapter, i);

		count[number]++;
		length += spell(number).size() + (i % 12 == 11 ? 2 : 1);
	}
	for (uint64_t number = 0; number < n_different; number++) {
		if (!index_is_right(c, chapter, number, count[number]))
			return false;
		n_kept += count[number] > rare;
	}
	return c.words.size() == 2 * n_words && c.text.size() == length &&
	       c.places.size() == n_kept && c.counts.size() == n_kept &&
	       c.new_words.size() == n_kept;
}

int
check(char *text, size_t size)
{
	uint64_t n_right = 0, n_entries = 0, n_characters = 0;

	for (uint64_t i = 0; i < book.size(); i++) {
		n_right += chapter_is_right(book[i], i);
		n_entries += book[i].places.size();
		n_characters += book[i].text.size();
	}
	snprintf(text, size,
	         "%" PRIu64 " of %" PRIu64 " chapters, %" PRIu64
	         " index entries, %" PRIu64 " characters",
	         n_right, n_chapters, n_entries, n_characters);
	return n_right == n_chapters ? 0 : -1;
}

int
setup()
{
	return 0;
}

/* Destroys what the tasks of the last run have made. */
void
reset()
{
	book.clear();
}

int
finish()
{
	book.clear();
	return 0;
}

example_option
number_option(const char *name, const char *help, uint64_t *number,
              uint64_t max)
{
	example_option o = {};

	o.name = name;
	o.arg = "N";
	o.help = help;
	o.number = number;
	o.min = 1;
	o.max = max;
	return o;
}

} // namespace

int
main(int argc, char **argv)
{
	const example_option options[] = {
	    number_option("chapters", "a task for each", &n_chapters, 100000),
	    number_option("words", "of a chapter that each run writes",
	                  &n_words, 10000000),
	    number_option("different", "words that there are", &n_different,
	                  1000000),
	    number_option("rare", "words that occur no more often are struck",
	                  &rare, 1000000),
	    {},
	};
	example containers = {};

	containers.name = "containers";
	containers.summary = "Grow C++ containers in tasks.";
	containers.options = options;
	containers.setup = setup;
	containers.reset = reset;
	containers.run = run;
	containers.check = check;
	containers.finish = finish;
	return example_main(&containers, argc, argv);
}
