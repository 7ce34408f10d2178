#!/usr/bin/env bash
# man.sh - the manual pages say all that there is: every verb and option, every
# public function with its prototype, every constant and field of the headers,
# every variable of the environment; and man has nothing to complain about.
# shellcheck disable=SC2317 # functions are called by name
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh
CC=${CC-cc}

# plain PAGE... - its source without escapes and fonts, in one line
plain() {
	sed -e 's/\\f[BIRP]//g; s/\\-/-/g; s/\\e/\\/g' "$@" |
		tr -s ' \t\n' ' '
}

# has_all PAGES - every line of stdin is there, as a word of its own.
has_all() {
	local text word missing=()
	# shellcheck disable=SC2086 # several pages
	text=" $(plain $1 | tr -c 'A-Za-z0-9_\n-' ' ') "
	while read -r word; do
		[[ $text == *" $word "* ]] || missing+=("$word")
	done
	[ ${#missing[@]} -eq 0 ] || echo "    $1 lacks: ${missing[*]}"
	[ ${#missing[@]} -eq 0 ]
}

# documents PAGES WORD...
documents() {
	local pages=$1
	shift
	[ $# -gt 0 ] && printf '%s\n' "$@" | has_all "$pages"
}

# --- commands ---

options() { # COMMAND... - the names of its options
	"$@" --help | grep -oE '^  (-[a-zA-Z0-9], )?--[a-z-]+' |
		grep -oE -- '-[-a-zA-Z0-9]+'
}

mapfile -t verbs < <("$bin/taskrt" --help |
	sed -n 's/^  \([a-z][a-z]*\) .*/\1/p')
check "there are verbs" [ "${#verbs[@]}" -gt 0 ]
check "taskrt.1 refers to every verb's page" \
	documents doc/man/taskrt.1 "${verbs[@]/#/taskrt-}"
for verb in "${verbs[@]}"; do
	mapfile -t words < <(options "$bin/taskrt" "$verb")
	check "taskrt-$verb.1 has every option" \
		documents "doc/man/taskrt-$verb.1" "${words[@]}"
done
for program in taskrt-coordinator taskrt-worker; do
	mapfile -t words < <(options "$bin/$program")
	check "$program.1 has every option" \
		documents "doc/man/$program.1" "${words[@]}"
done
mapfile -t words < <("$bin/taskrt" info | grep -oE '\bTASKRT_[A-Z_]+')
check "taskrt.5 has every variable of the environment" \
	documents doc/man/taskrt.5 "${words[@]}"

# --- the C interface ---

# declarations HEADER - without comments, directives and attributes, one a line
declarations() {
	sed '/^ *#/d' "$1" | "$CC" -fpreprocessed -E -P -x c - |
		sed -E 's/\b(DSM|TASKRT)_(API|MALLOC_LIKE)\b//g
			s/__attribute__\(\(([^()]|\([^()]*\))*\)\)//g' |
		tr -s ' \t\n' ' ' | sed 's/ *; */;\n/g; s/[{}] */&\n/g'
}

prototypes() { # HEADER
	declarations "$1" | grep -E '\b(dsm|taskrt)_[a-z_]+\(.*\);$' |
		sed -E 's/^ +//'
}

names_of() { # HEADER - its functions
	prototypes "$1" | grep -oE '\b(dsm|taskrt)_[a-z_]+\(' | tr -d '('
}

# members HEADER - of its structures, and its constants
members() {
	declarations "$1" | grep -v '(.*);$' | grep ';$' |
		grep -oE '[a-z_]+(\[[0-9]*\])?[,;]' | tr -d ',;'
	grep -oE '^[[:space:]]+(TASKRT|DSM)_[A-Z]+\b' "$1" | tr -d ' \t'
}

shows_prototypes() { # HEADER PAGES - in their synopsis
	local text line lacking=0
	# shellcheck disable=SC2086 # several pages
	text=$(sed -n '/^\.SH SYNOPSIS/,/^\.fi/{ /^\./d; p; }' $2 |
		tr -s ' \t\n' ' ')
	while read -r line; do
		[[ $text != *"$line"* ]] || continue
		echo "    no synopsis has: $line"
		lacking=1
	done < <(prototypes "$1")
	[ "$lacking" -eq 0 ]
}

has_name() { # SECTION NAME... - they are in some page's NAME section
	local names name lacking=0
	names=$(sed -n '/^\.SH NAME/,/^\.SH [^N]/{
		/^\./d; s/ \\- .*//; s/,/ /g; p; }' doc/man/*."$1")
	shift
	for name; do
		[[ " ${names//$'\n'/ } " == *" $name "* ]] && continue
		echo "    no page is called $name"
		lacking=1
	done
	[ $# -gt 0 ] && [ "$lacking" -eq 0 ]
}

pages=$(echo doc/man/*.3)
for header in dsm/include/dsm/dsm.h taskrt/include/taskrt/taskrt.h; do
	mapfile -t words < <(names_of "$header")
	check "every function of ${header##*/} has a page" \
		has_name 3 "${words[@]}"
	check "the pages show the prototypes of ${header##*/}" \
		shows_prototypes "$header" "$pages"
	mapfile -t words < <(members "$header")
	check "the pages have the fields and constants of ${header##*/}" \
		documents "$pages" "${words[@]}"
done
mapfile -t words < <(sed '/^namespace detail/,/^} \/\/ namespace/d' \
	taskrt/include/taskrt/taskrt.hpp | grep -oE '^[a-z_]+\(' | tr -d '(' |
	sort -u)
check "the functions of taskrt.hpp are in its page" \
	documents doc/man/taskrt.hpp.3 "${words[@]}"
for library in dsm taskrt; do
	mapfile -t words < <(nm -D --defined-only "$BUILD/lib/lib$library.so" |
		awk '{ print $3 }' | grep -E '^(dsm|taskrt)_[a-z]' |
		grep -v '^dsm__')
	check "all that lib$library.so offers has a page" \
		has_name 3 "${words[@]}"
done

# --- the pages themselves ---

well_formed() { # PAGE
	local complaints
	complaints=$(LC_ALL=C.UTF-8 MANWIDTH=80 man --warnings -E UTF-8 -l \
		-Tutf8 -Z "$1" 2>&1 >/dev/null)
	[ -z "$complaints" ] || echo "    $complaints"
	[ -z "$complaints" ]
}

refers_to_pages() { # PAGE - names of ours with a section are those of a page
	local name ok=0
	while read -r name; do
		[ -f "doc/man/$name" ] || has_name "${name##*.}" \
			"${name%.*}" || ok=1
	done < <(plain "$1" |
		grep -oE '\b(taskrt|dsm)[a-z_-]* ?\([1-9]\)' |
		sed -E 's/ ?\(([1-9])\)/.\1/')
	return "$ok"
}

if command -v man >/dev/null && command -v groff >/dev/null; then
	for page in doc/man/*; do
		check "man accepts ${page##*/}" well_formed "$page"
	done
else
	skip "man accepts the pages" "no man"
fi
for page in doc/man/*; do
	check "${page##*/} refers to pages that exist" refers_to_pages "$page"
done
exit $bad
