/* seal.h - what a process of root's gives up before it touches what strangers send.
 *
 * A hearer has to stay uid 0, since munged decodes a start request for that uid alone; and uid 0 without a capability still
 * owns root's files, may signal root's processes and is believed by daemons that ask SO_PEERCRED. So it also loses sight of
 * the file system (chroot), every way to a network, a process or a file (seccomp), and can never gain anything again.
 * Source: capabilities(7), seccomp(2), chroot(2).
 */
#ifndef RFAAS_NODE_SEAL_H
#define RFAAS_NODE_SEAL_H

/* Empty the bounding and the ambient set. NULL, or which of them stayed, with errno. */
const char *seal_unbind(void);

/* Leave this process nothing but its descriptors, its memory and the unix sockets in `folder`, which is `/` from now on.
 * NULL, or what could not be given up, with errno: then nothing of a stranger's may be read. */
const char *seal_hearer(const char *folder);

#endif
