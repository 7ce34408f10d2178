/*
 * The `taskrt` command: one file and one line of the table in taskrt.c per verb.
 * A verb has data on stdout, complaints on stderr, and the exit status 0, 1
 * (failed) or 2 (wrong usage).
 */
#ifndef TOOLS_TOOL_H
#define TOOLS_TOOL_H

/* argv[0] is the verb. Returns the exit status. */
int tool_run(int argc, char **argv);
int tool_stat(int argc, char **argv);
int tool_check(int argc, char **argv);
int tool_token(int argc, char **argv);
int tool_info(int argc, char **argv);

#endif
