# shellcheck shell=bash
# bash completion for taskrt, taskrt-coordinator and taskrt-worker. Verbs and options
# are those that --help shows.

# _taskrt_options COMMAND... - the option names in its --help
_taskrt_options() {
	"$@" --help 2>/dev/null |
		grep -oE '^  (-[a-zA-Z], )?--[a-z-]+' | tr -d ','
}

_taskrt_verbs() {
	"$1" --help 2>/dev/null | sed -n 's/^  \([a-z][a-z]*\) .*/\1/p'
}

# The value of the option before the cursor. Fails when it takes none that we know.
_taskrt_value() {
	case $1 in
	--transport) echo auto shm tcp verbs ;;
	--check) echo chunks iterations ;;
	--log) echo error warn info debug trace ;;
	--faults) echo auto segv ;;
	--user) compgen -u ;;
	*) return 1 ;;
	esac
}

# _taskrt_takes_value OPTION COMMAND...
_taskrt_takes_value() {
	local option=$1
	shift
	"$@" --help 2>/dev/null | grep -qE -- \
		"^  (.*, )?$option(, --[^ ]+)? [A-Z]"
}

_taskrt() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local program=${COMP_WORDS[0]} first=1 i words
	local command=("$program")

	COMPREPLY=()
	if [ "${program##*/}" = taskrt ]; then
		if [ "$COMP_CWORD" -eq 1 ]; then
			words=$(_taskrt_verbs "$program")
			mapfile -t COMPREPLY < <(
				compgen -W "$words --help --version" -- "$cur"
			)
			return
		fi
		command+=("${COMP_WORDS[1]}")
		first=2
	fi
	# The first word that is no option: a program, for the verbs that run one.
	for ((i = first; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		-*) ! _taskrt_takes_value "${COMP_WORDS[i]}" "${command[@]}" ||
			i=$((i + 1)) ;;
		*)
			! declare -F _command_offset >/dev/null ||
				_command_offset "$i"
			return
			;;
		esac
	done
	if [ "$COMP_CWORD" -gt "$first" ] && words=$(_taskrt_value "$prev"); then
		mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
	elif [ "$COMP_CWORD" -gt "$first" ] && [[ $prev == *-file ]]; then
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
	elif [ "$i" -gt "$COMP_CWORD" ]; then
		: # a number, an address: nothing to offer
	elif [[ $cur == -* ]]; then
		words=$(_taskrt_options "${command[@]}")
		mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
	elif [ "${command[1]-}" = token ]; then
		mapfile -t COMPREPLY < <(compgen -W "new list" -- "$cur")
	elif [ "${#command[@]}" -eq 2 ]; then
		mapfile -t COMPREPLY < <(compgen -c -- "$cur")
	fi
}

complete -o default -F _taskrt taskrt taskrt-coordinator taskrt-worker
