/* tcp_socket.h - what the medium over sockets asks of a socket before it is a channel. */
#ifndef RFAAS_TCP_SOCKET_H
#define RFAAS_TCP_SOCKET_H

#include "rfaas_channel.h"

/* "tcp", "unix", or NULL when `fd` is no connected stream socket. */
const char *rfaas_tcp_socket_name(int fd);

/* Sets a socket of that name up: options, non-blocking, close-on-exec. False: it can't be; errno says why. */
bool rfaas_tcp_socket_set_up(int fd, const char *name, const rfaas_tcp_options *options);

#endif
