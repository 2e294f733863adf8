/* program.h - what the commands of the test program share. Each returns 0, or ends the program, if not all is as it should be. */
#ifndef PROGRAM_H
#define PROGRAM_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <rfaas.h>
#include <rfaas_function.h> /* both in one program */

#define REQUIRE(what)                                                          \
    do {                                                                       \
        if (!(what)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what); \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

extern const char *library;  /* of the functions */
extern rfaas_client *client; /* NULL before it is connected; main disconnects it */

/* A line on standard output with all that is known of an error. */
void tell(const rfaas_error *error);

/* Connect the client; a failure is told, and the status 3. */
void connect_with(uint32_t workers, int idempotent, uint32_t retries);

rfaas_function *function(const char *symbol);

/* Whether a number comes back as it is; an error is told. */
int echo_one(rfaas_function *echo, uint64_t number);

/* Connects with these options, and calls once. */
void call_with(const rfaas_options *options);

uint64_t number(const char *word);

/* Commands; words: what follows the command's name, "0" if nothing does, then NULL. */
int invoke_many(char **words);
int invoke_on_one(char **words);
int submit_many(char **words);
int all_sizes(char **words);
int long_call(char **words);
int long_idempotent_call(char **words);
int crash(char **words);
int time_outs(char **words);

int wrong_things(char **words);

int forked(char **words);
int threads(char **words);
int signals(char **words);
int away(char **words);
int come_and_go(char **words);
int pause_between(char **words);
int unread(char **words);

int durations(char **words);
int with_a_comma(char **words);
int of_first_version(char **words);
int why_waiting(char **words);
int say_failure(char **words);
int no_workers(char **words);

#endif
