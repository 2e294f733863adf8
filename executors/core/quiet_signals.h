/* SIGTERM and SIGINT reach every process of a Slurm step; the agent alone acts on them.
 *
 * Template and workers therefore carry a handler that does nothing. A handler, not SIG_IGN and not a blocked mask: both
 * of those survive exec, and a program that a function starts could then not be terminated any more.
 */
#ifndef RFAAS_QUIET_SIGNALS_H
#define RFAAS_QUIET_SIGNALS_H

/* Install the handler (SA_RESTART); repeatable. The actions found at the first call are kept. 0, or -1 with errno. */
int rfaas_quiet_install(void);

/* Put back the actions that the first install found, once; for children that user code forks. Async-signal-safe. */
int rfaas_quiet_restore(void);

/* Around a fork, in the forking thread: hold the two signals back and let them through again. A signal sent to a child
 * that has not come to rfaas_quiet_restore() yet would otherwise meet the handler and be lost. */
void rfaas_quiet_hold(void);
void rfaas_quiet_let_go(void);

#endif
