/* What the hooks of a site are told by root in one small file: docs/spec/009-hooks.md section 4. */
#ifndef RFAAS_HOOK_SETTINGS_H
#define RFAAS_HOOK_SETTINGS_H

#include <limits.h>
#include <sys/types.h>

#ifndef RFAAS_HOOKS_CONF /* tests build it with another */
#define RFAAS_HOOKS_CONF "/etc/rfaas/hooks.conf"
#endif

#define RFAAS_ANSWER_MS 200 /* what the node agent has for its answer, unless the file says otherwise */

typedef struct {
    char node_socket[108];      /* of the site's node agent */
    char allocator_socket[108]; /* of the site's allocator; begins with '@': abstract; empty: there is none */
    uid_t allocator_uid;        /* whose that must be, if not root's */
    char cgroup[256];           /* below each mounted hierarchy: where the node's executors live */
    char log_file[256];         /* empty: syslog */
    int answer_ms;
} rfaas_hook_settings;

/* Fill in the defaults, then read RFAAS_HOOKS_CONF if it is there. A file that is not root's alone to write, or can't be
 * read, counts as absent; a line that is wrong counts as absent too. The first of such faults is written to `fault`, which
 * is empty if there was none. */
void rfaas_hook_settings_read(rfaas_hook_settings *settings, char *fault, size_t fault_size);

#endif
