/* failpoint.h - the steps between two stores that another process sees. In a build for tests each of them calls the test,
 * which may kill the process there or let the other side run; in any other it is nothing.
 */
#ifndef RFAAS_FAILPOINT_H
#define RFAAS_FAILPOINT_H

#ifdef RFAAS_FAILPOINTS
void rfaas_failpoint(const char *name); /* the test's */
#define FAILPOINT(name) rfaas_failpoint(name)
#else
#define FAILPOINT(name) ((void)0)
#endif

#endif
