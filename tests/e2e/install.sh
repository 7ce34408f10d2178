#!/usr/bin/env bash
# install.sh - `make install` into folders of its own: what is there is enough to
# build programs with cc, pkg-config and CMake, shared and static, and to run them
# on daemons that were installed with it; `make uninstall` leaves what is not ours.
# shellcheck disable=SC2317 # functions are called by name
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh
# Not a part of the make that runs this.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES DESTDIR PREFIX LIBDIR
CC=${CC-cc}
prefix=$tmp/prefix
root=$tmp/root
multi=/usr/lib/$($CC -print-multiarch)

# made TARGET [SETTING...] - its output is a log that is shown when a check fails.
made() {
	make --no-print-directory B="$BUILD" "$@" >"$tmp/make.log" 2>&1
}

# compiles LOG COMMAND...
compiles() {
	local log=$tmp/$1.log
	shift
	"$@" >"$log" 2>&1
}

# --- what is installed ---

installs_all_it_lists() { # SETTING...
	made install DESTDIR="$root" "$@" || return 1
	make -s --no-print-directory B="$BUILD" install-list "$@" | sort \
		>"$tmp/listed"
	(cd "$root" && find . ! -type d -printf '/%P\n') | sort \
		>"$tmp/installed"
	[ -s "$tmp/listed" ] &&
		diff "$tmp/listed" "$tmp/installed" >"$tmp/diff.log"
}

# dynamic FILE TAG - the values of that tag, in one line
dynamic() {
	readelf -d "$1" | sed -n "s/.*($2).*\[\(.*\)\]/\1/p" | tr '\n' ' '
}

no_run_path() { # FILE...
	local f
	for f; do
		[ -z "$(dynamic "$f" RUNPATH)$(dynamic "$f" RPATH)" ] ||
			return 1
	done
}

no_dangling_link() { # FOLDER
	[ -z "$(find "$1" -xtype l)" ]
}

check "make install puts what install-list says, and only that" \
	installs_all_it_lists PREFIX=/usr LIBDIR="$multi"
check "no link leads nowhere" no_dangling_link "$root"
check "installed below /usr, nothing has a run path" \
	no_run_path "$root"/usr/bin/* "$root$multi"/lib*.so.0
check "no file names the staging folder" eval \
	"! grep -rlF '$root' '$root' | grep ."
check "libtaskrt.so.0 is the soname" \
	[ "$(dynamic "$root$multi/libtaskrt.so" SONAME)" = "libtaskrt.so.0 " ]
check "libtaskrt.so needs libdsm.so.0" eval \
	"[[ '$(dynamic "$root$multi/libtaskrt.so" NEEDED)' == *libdsm.so.0* ]]"

# --- programs that are built with it ---

# The first program of README.md, and what it prints.
awk '/^```c$/ { on = 1; next } on && /^```$/ { exit } on' README.md \
	>"$tmp/first.c"
want=$(awk 'BEGIN { for (k = 1; k < 100000; k++) s += sin(999 / k)
	printf "%f", s }')

prints() { # PROGRAM... - the right number
	local got
	got=$(TASKRT_SLOTS=2 timeout 60 "$@" 2>"$tmp/program.log")
	[ "$got" = "$want" ] || {
		echo "it printed \"$got\", not $want" >>"$tmp/program.log"
		return 1
	}
}

package() { # OPTION... - of taskrt.pc, as words
	PKG_CONFIG_PATH=$prefix/lib/pkgconfig pkg-config "$@" taskrt
}

# shellcheck disable=SC2016 # the loader's
origin='$ORIGIN '
check "make install into a prefix" made install PREFIX="$prefix"
check "installed in another folder, libtaskrt.so finds libdsm.so beside it" \
	[ "$(dynamic "$prefix/lib/libtaskrt.so" RUNPATH)" = "$origin" ]
if command -v pkg-config >/dev/null; then
	# shellcheck disable=SC2046 # words, on purpose
	check "README's program builds with pkg-config" compiles cc "$CC" -O2 \
		"$tmp/first.c" -o "$tmp/first" $(package --cflags --libs) \
		-Wl,-rpath,"$prefix/lib" -lm
	check "README's program runs" prints "$tmp/first"
	examples=$prefix/share/doc/taskrt/examples
	# shellcheck disable=SC2046
	check "an installed example builds" compiles cc "$CC" -O2 -fopenmp \
		"$examples/factor.c" "$examples"/common/*.c -o "$tmp/factor" \
		$(package --cflags --libs) -Wl,-rpath,"$prefix/lib" -lpng -lm
	check "the example runs" compiles factor "$tmp/factor" --numbers 4 \
		--mode compare
	# A linker that drops what is not called must not drop malloc.
	# shellcheck disable=SC2046
	check "README's program builds with --as-needed" compiles cc "$CC" -O2 \
		-Wl,--as-needed "$tmp/first.c" -o "$tmp/as-needed" \
		$(package --cflags --libs) -Wl,-rpath,"$prefix/lib" -lm
	check "the one with --as-needed runs" prints "$tmp/as-needed"
	# shellcheck disable=SC2046
	check "README's program builds static" compiles cc "$CC" -O2 -static \
		"$tmp/first.c" -o "$tmp/static" \
		$(package --static --cflags --libs)
	check "the static program runs" prints "$tmp/static"
	cat >"$tmp/sum.cc" <<-'END'
		#include <cmath>
		#include <cstdio>
		#include <taskrt/taskrt.hpp>

		int
		main()
		{
			taskrt::vector<double> a(1000);

			taskrt::parallel_for(0, 1000, [&](auto i) {
				for (int k = 1; k < 100000; k++)
					a[i] += std::sin(double(i) / k);
			});
			std::printf("%f\n", a[999]);
		}
	END
	if command -v g++ >/dev/null; then
		# shellcheck disable=SC2046
		check "a C++ program builds" compiles c++ g++ -std=c++17 -O2 \
			-Wall -Wextra -Werror "$tmp/sum.cc" -o "$tmp/sum" \
			$(package --cflags --libs) -Wl,-rpath,"$prefix/lib"
		check "the C++ program runs" prints "$tmp/sum"
	else
		skip "a C++ program" "no g++"
	fi
	check "the version in taskrt.pc is that of the header" eval \
		"grep -qF '\"$(package --modversion)\"' \
		taskrt/include/taskrt/taskrt.h"
else
	skip "programs built with pkg-config" "no pkg-config"
fi

cmake_project() { # BUILD PREFIX
	mkdir -p "$tmp/project"
	cp "$tmp/first.c" "$tmp/project"
	cat >"$tmp/project/CMakeLists.txt" <<-'END'
		cmake_minimum_required(VERSION 3.13)
		project(first C)
		find_package(taskrt 0.1 REQUIRED)
		add_executable(shared first.c)
		target_link_libraries(shared taskrt::taskrt m)
		add_executable(static first.c)
		target_link_libraries(static taskrt::taskrt_static)
		target_link_options(static PRIVATE -static)
	END
	compiles cmake cmake -S "$tmp/project" -B "$tmp/project/$1" \
		-DCMAKE_PREFIX_PATH="$2" -DCMAKE_C_COMPILER="$CC" &&
		compiles cmake-build cmake --build "$tmp/project/$1"
}

if command -v cmake >/dev/null; then
	check "a CMake project builds" cmake_project build "$prefix"
	check "its shared program runs" prints "$tmp/project/build/shared"
	check "its static program runs" prints "$tmp/project/build/static"
	# The staged one, moved: nothing in it may depend on where it was.
	check "a CMake project builds with a moved installation" \
		cmake_project moved "$root/usr"
	check "and uses that one" eval \
		"readelf -d '$tmp/project/moved/shared' | grep -qF '$root'"
else
	skip "a CMake project" "no cmake"
fi

# --- where it goes if nothing is said ---

# Everything that this changes is a layer in memory, in a mount namespace.
in_usr_local() {
	mkdir -p "$tmp/layer"
	# shellcheck disable=SC2016 # that shell's
	compiles usr-local timeout -k 5 60 unshare --mount bash -euc '
		layer=$1 first=$2 cc=$3
		mount --make-rprivate /
		mount -t tmpfs tmpfs "$layer"
		mkdir "$layer"/{up,work,mount}
		mount -t tmpfs tmpfs /usr/local
		mount -t overlay overlay /etc -o \
			"lowerdir=/etc,upperdir=$layer/up,workdir=$layer/work"
		[ ! -d /var/cache/ldconfig ] ||
			mount -t tmpfs tmpfs /var/cache/ldconfig
		$4 && exit
		make --no-print-directory B="$BUILD" install
		"$cc" -O2 "$first" -o "$layer/first" \
			$(pkg-config --cflags --libs taskrt) -lm
		TASKRT_SLOTS=2 "$layer/first" >"$layer/../usr-local"
		taskrt --version
		make --no-print-directory B="$BUILD" uninstall
		! "$layer/first"
	' bash "$tmp/layer" "$tmp/first.c" "$CC" "$1"
}

if [ "$(id -u)" -ne 0 ]; then
	skip "make install into /usr/local" "needs root"
elif [[ $PWD == /usr/local/* ]] || ! in_usr_local true; then
	skip "make install into /usr/local" "no layer above it here"
else
	ldcache=$(sha256sum /etc/ld.so.cache)
	check "programs build and run right after make install" \
		in_usr_local false
	check "README's program prints the same" \
		[ "$(cat "$tmp/usr-local")" = "$want" ]
	check "this machine has what it had before" \
		[ "$ldcache" = "$(sha256sum /etc/ld.so.cache)" ]
fi

# --- programs, units, completion ---

# shellcheck disable=SC2034 # the helper's
bin=$prefix/bin
check "an installed coordinator starts" start_coordinator coordinator
coordinator=$pid
start_worker worker 2
worker=$pid
check "an installed worker joins it" soon 10 has_workers 1
if [ -x "$tmp/first" ]; then
	check "README's program runs on them" \
		prints env TASKRT_COORDINATOR="$addr" "$tmp/first"
	check "the worker has done all tasks" \
		[ "$(tasks_of worker)" = 1000 ]
fi
kill -TERM "$worker" "$coordinator"
check "the worker ends with 0" ends_with 0 "$worker"
check "the coordinator ends with 0" ends_with 0 "$coordinator"

if command -v systemd-analyze >/dev/null; then
	for unit in coordinator worker; do
		check "systemd accepts taskrt-$unit.service" \
			compiles "$unit-unit" systemd-analyze verify --man=no \
			"$prefix/lib/systemd/system/taskrt-$unit.service"
		check "systemd has nothing to say about taskrt-$unit.service" \
			eval "! grep -q taskrt '$tmp/$unit-unit.log'"
	done
else
	skip "systemd units" "no systemd-analyze"
fi

# completes WORD... WANTED - the last word of the line is being typed.
completes() {
	PATH=$prefix/bin:$PATH bash -c '
		. "$0"
		want=${!#}
		COMP_WORDS=("${@:1:$#-1}")
		COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
		_taskrt
		echo "completions: ${COMPREPLY[*]}"
		[[ " ${COMPREPLY[*]} " == *" $want "* ]]
	' "$prefix/share/bash-completion/completions/taskrt" "$@" \
		>"$tmp/completion.log" 2>&1
}

check "bash completes verbs" completes taskrt st stat
check "bash completes a verb's options" completes taskrt run --tr --transport
check "bash completes an option's values" \
	completes taskrt run --slots 2 --log d debug
check "bash completes a daemon's options" \
	completes taskrt-worker --fa --faults
check "bash completes programs to run" completes taskrt run tr true
check "bash completes what to do with tokens" completes taskrt token n new

if command -v man >/dev/null; then
	for page in "1 taskrt-worker" "3 taskrt_for" "3 dsm_free" "7 taskrt"; do
		# shellcheck disable=SC2086 # section and name
		check "man finds $page" compiles man man -M "$prefix/share/man" \
			-w $page
	done
else
	skip "man finds pages" "no man"
fi

# --- uninstall ---

only_ours_is_gone() {
	touch "$prefix/lib/pkgconfig/other.pc" &&
		made uninstall PREFIX="$prefix" &&
		[ "$(cd "$prefix" && find . ! -type d)" = \
			./lib/pkgconfig/other.pc ] &&
		[ -z "$(find "$prefix" -name '*taskrt*' -o -name dsm)" ]
}
check "make uninstall leaves what is not ours" only_ours_is_gone
exit $bad
