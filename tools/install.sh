#!/usr/bin/env bash
# install.sh install|uninstall|list BUILD - what `make install` puts where, from what
# was built below BUILD. The folders come from the environment (install.mk has their
# defaults); DESTDIR goes in front of each and appears in no file.
set -eu
action=${1-} # install, uninstall, list
B=${2-}
: "${DESTDIR=}" "${PREFIX:?}" "${BINDIR:?}" "${LIBDIR:?}" "${INCLUDEDIR:?}"
: "${DATADIR:?}" "${MANDIR:?}" "${DOCDIR:?}" "${UNITDIR:?}" "${VERSION:?}"
case $action in
install | uninstall | list) ;;
*)
	echo "usage: install.sh install|uninstall|list BUILD" >&2
	exit 2
	;;
esac
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# drop FILE - and the folders of ours that are empty without it.
drop() {
	local folder=${1%/*}
	rm -f "$DESTDIR$1"
	while [[ $folder =~ /(dsm|taskrt|taskrt/examples|examples/common)$ ]] &&
		[ -d "$DESTDIR$folder" ]; do
		rmdir --ignore-fail-on-non-empty "$DESTDIR$folder"
		folder=${folder%/*}
	done
}

# put MODE SOURCE FILE
put() {
	case $action in
	install) install -D -m "$1" "$2" "$DESTDIR$3" ;;
	uninstall) drop "$3" ;;
	list) echo "$3" ;;
	esac
}

# alias_of NAME FILE - a link beside what it names.
alias_of() {
	case $action in
	install) mkdir -p "$DESTDIR${2%/*}" && ln -sfn "$1" "$DESTDIR$2" ;;
	uninstall) drop "$2" ;;
	list) echo "$2" ;;
	esac
}

# filled TEMPLATE FILE - with our folders in it.
filled() {
	sed -e "s|@PREFIX@|$PREFIX|g" -e "s|@BINDIR@|$BINDIR|g" \
		-e "s|@LIBDIR@|$(below_prefix "$LIBDIR")|g" \
		-e "s|@INCLUDEDIR@|$(below_prefix "$INCLUDEDIR")|g" \
		-e "s|@UP@|$(realpath -m -s --relative-to="$LIBDIR/cmake/taskrt" \
			"$PREFIX")|g" \
		-e "s|@REL_LIBDIR@|$(realpath -m -s --relative-to="$PREFIX" \
			"$LIBDIR")|g" \
		-e "s|@REL_INCLUDEDIR@|$(realpath -m -s --relative-to="$PREFIX" \
			"$INCLUDEDIR")|g" \
		-e "s|@VERSION@|$VERSION|g" -e "s|@LIBS@|${PRIVATE_LIBS-}|g" \
		"$1" >"$tmp/filled"
	put 644 "$tmp/filled" "$2"
}

# below_prefix FOLDER - as pkg-config files spell it.
below_prefix() {
	case $1 in
	"$PREFIX"/*) echo "\${prefix}${1#"$PREFIX"}" ;;
	*) echo "$1" ;;
	esac
}

headers() {
	local h
	for h in dsm/include/dsm/* taskrt/include/taskrt/*; do
		put 644 "$h" "$INCLUDEDIR/${h#*/include/}"
	done
}

searched_by_loader() {
	[[ $LIBDIR == /lib* || $LIBDIR == /usr/lib* ||
		$LIBDIR == /usr/local/lib ]]
}

# Where the loader searches, libtaskrt.so finds libdsm.so without help.
built() { # LIBRARY
	if [ "$1" = taskrt ] && searched_by_loader; then
		echo "$B/install/libtaskrt.so.0"
	else
		echo "$B/lib/lib$1.so.0"
	fi
}

libraries() {
	local name so
	for name in dsm taskrt; do
		so=lib$name.so
		put 644 "$(built "$name")" "$LIBDIR/$so.$VERSION"
		alias_of "$so.$VERSION" "$LIBDIR/$so.0"
		alias_of "$so.0" "$LIBDIR/$so"
		put 644 "$B/lib/lib$name.a" "$LIBDIR/lib$name.a"
		filled "packaging/$name.pc.in" "$LIBDIR/pkgconfig/$name.pc"
	done
	for name in taskrt-config taskrt-config-version; do
		filled "packaging/$name.cmake.in" \
			"$LIBDIR/cmake/taskrt/$name.cmake"
	done
}

programs() {
	local p completions=$DATADIR/bash-completion/completions
	for p in "$B"/bin/*; do
		p=${p##*/}
		put 755 "$B/bin/$p" "$BINDIR/$p"
		[ "$p" = taskrt ] || alias_of taskrt "$completions/$p"
	done
	put 644 packaging/completion.bash "$completions/taskrt"
	for p in coordinator worker; do
		filled "packaging/taskrt-$p.service.in" \
			"$UNITDIR/taskrt-$p.service"
	done
}

# A page is also found by every other name in its NAME section.
man_pages() {
	local page file section names name
	for page in doc/man/*.[1-9]; do
		file=${page##*/}
		section=${file##*.}
		put 644 "$page" "$MANDIR/man$section/$file"
		names=$(sed -n '/^\.SH NAME/,/^\.SH [^N]/{
			/^\./d; s/ \\- .*//; s/,/ /g; p; }' "$page")
		for name in $names; do
			[ "$name.$section" = "$file" ] || alias_of "$file" \
				"$MANDIR/man$section/$name.$section"
		done
	done
}

documents() {
	local d
	for d in README.md doc/*.md; do
		put 644 "$d" "$DOCDIR/${d##*/}"
	done
	find examples -type f -name '*.[a-z]*' ! -name '*.sh' ! -name '*.png' | sort |
		while read -r d; do
			put 644 "$d" "$DOCDIR/$d"
		done
}

headers
libraries
programs
man_pages
documents
if [ "$action" != list ] && [ -z "$DESTDIR" ] && searched_by_loader &&
	[ "$(id -u)" -eq 0 ]; then
	ldconfig
fi
