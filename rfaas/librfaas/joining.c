/* joining.c - joining a session process, without ever blocking: the helper's answer, the socket, `join`, `welcome`.
 * Spec: 004 sections 3 and 6.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"

enum {
    VERSION = 1,
    ANSWER_BYTES_MAX = 1 << 20,
    RESUME_BYTES = 64 << 10, /* of leases in one packet, half of what it takes */
};

static const int64_t again_ns = 20000000; /* between tries while another session process is on its way out */

static void forget_fd(rfaas_client *client)
{
    joiner *join = &client->joiner;
    if (join->fd >= 0) {
        rfaas_poller_remove(&client->poller, join->fd);
        close(join->fd);
    }
    join->fd = -1;
}

static void reap(joiner *join, bool kill_it)
{
    if (join->helper <= 0)
        return;
    if (kill_it)
        kill(join->helper, SIGKILL);
    while (waitpid(join->helper, NULL, 0) < 0 && errno == EINTR)
        ; /* ECHILD: the program reaps all of its children itself, or ignores SIGCHLD */
    join->helper = 0;
}

void join_abandon(rfaas_client *client)
{
    forget_fd(client);
    reap(&client->joiner, true);
    pack_free(&client->joiner.said);
    client->joiner.state = JOIN_IDLE;
}

static void fail(rfaas_client *client, int code, const char *hint, const char *message)
{
    join_abandon(client);
    say_error(&client->join_error, code, hint, "%s", message);
    core_session_failed(&client->core, &client->join_error, client_now_ns());
}

static void watch(rfaas_client *client, int fd, join_state state)
{
    client->joiner.fd = fd;
    client->joiner.state = state;
    rfaas_poller_add(&client->poller, fd, 1);
}

static void start_helper(rfaas_client *client)
{
    int fd = -1;
    int pid = launch_helper(client->helper_command, &fd);
    if (pid < 0) {
        char text[400], why[80] = "";
        const char *said = strerror_r(-pid, why, sizeof why);
        snprintf(text, sizeof text, "the interpreter %s can't be started: %s", client->helper_command[0], said);
        fail(client, RFAAS_ERROR_CONFIG, "name a Python that has rfaas: RFAAS_PYTHON, or rfaas_options.python", text);
        return;
    }
    client->joiner.helper = pid;
    pack_free(&client->joiner.said);
    watch(client, fd, JOIN_HELPER);
}

void join_begin(rfaas_client *client)
{
    client->joiner.deadline_ns = client_now_ns() + client->connect_timeout_ns;
    start_helper(client);
}

int64_t join_due_ns(const rfaas_client *client)
{
    const joiner *join = &client->joiner;
    if (join->state == JOIN_IDLE)
        return INT64_MAX;
    return join->state == JOIN_AGAIN && join->again_ns < join->deadline_ns ? join->again_ns : join->deadline_ns;
}

void join_tick(rfaas_client *client, int64_t now_ns)
{
    joiner *join = &client->joiner;
    if (join->state == JOIN_IDLE)
        return;
    if (now_ns >= join->deadline_ns)
        fail(client, RFAAS_ERROR_ALLOCATOR_UNAVAILABLE, "try again; RFAAS_LOG=info shows what it does",
             "the session process did not start or answer in time");
    else if (join->state == JOIN_AGAIN && now_ns >= join->again_ns)
        start_helper(client);
}

static void try_again(rfaas_client *client)
{
    join_abandon(client);
    client->joiner.state = JOIN_AGAIN;
    client->joiner.again_ns = client_now_ns() + again_ns;
}

/* ---- what we say ---- */

static uint32_t n_channels_of(const rfaas_client *client, const core_lease *lease)
{
    uint32_t n = 0;
    for (const core_channel *channel = client->core.channels; channel != NULL; channel = channel->next)
        n += !channel->ended && memcmp(channel->lease, lease->lease, sizeof lease->lease) == 0;
    return n;
}

static void pack_lease(pack_writer *out, const rfaas_client *client, const core_lease *lease)
{
    pack_map(out, 10);
    pack_text(out, "lease");
    pack_bytes(out, lease->lease, sizeof lease->lease);
    pack_text(out, "lease_seq");
    pack_unsigned(out, lease->lease_seq);
    pack_text(out, "epoch");
    pack_unsigned(out, lease->epoch);
    pack_text(out, "slice");
    pack_bytes(out, lease->slice, lease->slice_bytes);
    pack_text(out, "address");
    pack_text(out, lease->address);
    pack_text(out, "node");
    pack_text(out, lease->node);
    pack_text(out, "executor");
    pack_unsigned(out, EXECUTOR);
    pack_text(out, "workers");
    pack_unsigned(out, lease->workers);
    pack_text(out, "ttl_s");
    pack_real(out, lease->ttl_s);
    pack_text(out, "channels");
    pack_array(out, n_channels_of(client, lease));
    for (const core_channel *channel = client->core.channels; channel != NULL; channel = channel->next) {
        if (channel->ended || memcmp(channel->lease, lease->lease, sizeof lease->lease) != 0)
            continue;
        pack_array(out, 3);
        pack_unsigned(out, channel->number);
        pack_unsigned(out, channel->slot);
        pack_unsigned(out, channel->generation);
    }
}

static bool send_packet(int fd, const pack_writer *packet)
{
    ssize_t n;
    if (packet->failed)
        return false;
    do
        n = send(fd, packet->bytes, packet->size_bytes, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)packet->size_bytes;
}

/* Packets of the leases that we go on with, each short enough. */
static bool send_leases(const rfaas_client *client, int fd)
{
    bool sent = true;
    for (const core_lease *lease = client->core.leases; lease != NULL && sent;) {
        pack_writer entries = {0}, packet = {0};
        uint32_t n = 0;
        for (; lease != NULL && (n == 0 || entries.size_bytes < RESUME_BYTES / 2); lease = lease->next, n++)
            pack_lease(&entries, client, lease);
        pack_map(&packet, 2);
        pack_text(&packet, "m");
        pack_text(&packet, "resume");
        pack_text(&packet, "resume");
        pack_array(&packet, n);
        pack_packed(&packet, entries.bytes, entries.size_bytes);
        sent = !entries.failed && send_packet(fd, &packet);
        pack_free(&entries);
        pack_free(&packet);
    }
    return sent;
}

static bool send_join(const rfaas_client *client, int fd, const pack_value *env, uint64_t output_limit_bytes)
{
    pack_writer packet = {0};
    pack_map(&packet, 7);
    pack_text(&packet, "m");
    pack_text(&packet, "join");
    pack_text(&packet, "client");
    pack_bytes(&packet, client->id, sizeof client->id);
    pack_text(&packet, "version");
    pack_unsigned(&packet, VERSION);
    pack_text(&packet, "start");
    pack_unsigned(&packet, client->start);
    pack_text(&packet, "env");
    pack_packed(&packet, env->begin, (size_t)(env->end - env->begin));
    pack_text(&packet, "resume");
    pack_array(&packet, 0);
    pack_text(&packet, "output_limit_bytes");
    pack_unsigned(&packet, client->show_output ? output_limit_bytes : 0);
    bool sent = send_packet(fd, &packet);
    pack_free(&packet);
    return sent;
}

/* ---- what the helper says ---- */

static int code_named(const pack_value *code)
{
    char text[40];
    pack_copy_text(code, text, sizeof text);
    for (int number = RFAAS_ERROR_CONFIG; number <= RFAAS_ERROR_SYSTEM; number++)
        if (strcmp(rfaas_strerror(number), text) == 0)
            return number;
    return RFAAS_ERROR_ALLOCATOR_UNAVAILABLE;
}

static double seconds_of(const pack_value *answer, const char *key, double otherwise)
{
    pack_value value = pack_find(answer, key);
    return pack_as_real(&value, otherwise);
}

static uint64_t count_of(const pack_value *answer, const char *key, uint64_t otherwise)
{
    pack_value value = pack_find(answer, key);
    return pack_as_unsigned(&value, otherwise);
}

static void take_settings(rfaas_client *client, const pack_value *answer)
{
    uint64_t workers = count_of(answer, "workers", 1), retries = count_of(answer, "retries", 0);
    double acquire_s = seconds_of(answer, "acquire_timeout_s", 0), timeout_s = seconds_of(answer, "call_timeout_s", 0);
    pack_value idempotent = pack_find(answer, "idempotent"), text = pack_find(answer, "placement");
    client->core.max_workers = workers == 0 || workers > UINT16_MAX ? UINT16_MAX : (uint32_t)workers;
    client->core.acquire_timeout_ns = duration_ns(acquire_s);
    client->settings.idempotent = idempotent.kind == PACK_BOOL && idempotent.magnitude != 0;
    client->settings.retries = retries > UINT32_MAX ? UINT32_MAX : (uint32_t)retries;
    client->settings.timeout_ns = duration_ns(timeout_s);
    client->cores = count_of(answer, "cores", 1);
    client->memory_bytes = count_of(answer, "memory_bytes", 1 << 30);
    client->hot_for_s = seconds_of(answer, "hot_for_s", 0);
    pack_copy_text(&text, client->placement, sizeof client->placement);
    text = pack_find(answer, "transport");
    pack_copy_text(&text, client->transport, sizeof client->transport);
    text = pack_find(answer, "load");
    pack_copy_text(&text, client->load, sizeof client->load);
}

/* Connects to the session process's abstract name; -1 with errno. */
static int reach(const pack_value *name, uid_t *uid)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct ucred peer;
    socklen_t size_bytes = sizeof peer;
    if (name->kind != PACK_BYTES || name->size == 0 || name->size > sizeof address.sun_path) {
        errno = EPROTO;
        return -1;
    }
    memcpy(address.sun_path, name->data, name->size); /* it begins with a zero byte */
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    socklen_t address_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + name->size);
    if (connect(fd, (const struct sockaddr *)&address, address_bytes) != 0 ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size_bytes) != 0) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    *uid = peer.uid;
    return fd;
}

static void greet(rfaas_client *client, const pack_value *answer)
{
    pack_value name = pack_find(answer, "socket"), env = pack_find(answer, "env");
    uid_t uid = 0;
    int fd = reach(&name, &uid);
    if (fd < 0) {
        if (errno == ECONNREFUSED || errno == EAGAIN || errno == EINTR)
            try_again(client); /* it left meanwhile, or has many at its door */
        else
            fail(client, RFAAS_ERROR_ALLOCATOR_UNAVAILABLE, "", "the session process can't be reached");
        return;
    }
    if (uid != geteuid()) {
        close(fd);
        fail(client, RFAAS_ERROR_AUTHENTICATION_FAILED, "somebody on this machine took the name; tell the administrator",
             "the address of our session process is held by another user");
        return;
    }
    take_settings(client, answer);
    if (!send_leases(client, fd) || !send_join(client, fd, &env, count_of(answer, "output_limit_bytes", 0))) {
        close(fd);
        try_again(client);
        return;
    }
    forget_fd(client);
    reap(&client->joiner, false);
    pack_free(&client->joiner.said);
    watch(client, fd, JOIN_WELCOME);
}

static void on_answer(rfaas_client *client)
{
    joiner *join = &client->joiner;
    pack_value answer;
    if (join->said.failed || !pack_read(join->said.bytes, join->said.size_bytes, &answer)) {
        fail(client, RFAAS_ERROR_ALLOCATOR_UNAVAILABLE,
             "see its standard error above: has that Python rfaas, of the version of this library?",
             "the helper that starts the session process ended without an answer");
        return;
    }
    pack_value m = pack_find(&answer, "m");
    if (pack_is_text(&m, "ready")) {
        greet(client, &answer);
        return;
    }
    char message[sizeof client->join_error.message], hint[sizeof client->join_error.hint];
    pack_value code = pack_find(&answer, "code"), text = pack_find(&answer, "message"), remedy = pack_find(&answer, "hint");
    pack_copy_text(&text, message, sizeof message);
    pack_copy_text(&remedy, hint, sizeof hint);
    fail(client, code_named(&code), hint, message);
}

static void serve_helper(rfaas_client *client)
{
    uint8_t bytes[4096];
    for (;;) {
        ssize_t n = read(client->joiner.fd, bytes, sizeof bytes);
        if (n > 0 && client->joiner.said.size_bytes < ANSWER_BYTES_MAX) {
            pack_packed(&client->joiner.said, bytes, (size_t)n);
        } else if (n < 0 && errno == EINTR) {
            continue;
        } else if (n < 0 && errno == EAGAIN) {
            return;
        } else {
            on_answer(client);
            return;
        }
    }
}

/* ---- what the session process says ---- */

static void serve_welcome(rfaas_client *client)
{
    int fd = client->joiner.fd;
    ssize_t n = recv(fd, client->packet, PACKET_BYTES_MAX, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    pack_value answer;
    if (n <= 0 || !pack_read(client->packet, (size_t)n, &answer)) {
        try_again(client); /* it was leaving */
        return;
    }
    pack_value m = pack_find(&answer, "m"), mode = pack_find(&answer, "mode"), version = pack_find(&answer, "version");
    uint64_t number = pack_as_unsigned(&version, UINT64_MAX);
    if (pack_is_text(&m, "welcome") && (number == VERSION || number == VERSION + 1 || number + 1 == VERSION)) {
        rfaas_poller_remove(&client->poller, fd);
        client->joiner.fd = -1;
        client->joiner.state = JOIN_IDLE;
        client->session_fd = fd;
        client->embedded_session = pack_is_text(&mode, "embedded");
        rfaas_poller_add(&client->poller, fd, 0);
        core_session_up(&client->core, client->embedded_session);
        return;
    }
    char text[400], why[64] = "version-mismatch", hint[sizeof client->join_error.hint];
    pack_value code = pack_find(&answer, "code"), remedy = pack_find(&answer, "hint");
    int number_of_code = code.kind == PACK_TEXT ? code_named(&code) : RFAAS_ERROR_VERSION_MISMATCH;
    if (code.kind == PACK_TEXT)
        pack_copy_text(&code, why, sizeof why);
    pack_copy_text(&remedy, hint, sizeof hint);
    snprintf(text, sizeof text, "the session process refused this program: %s", why);
    fail(client, number_of_code, hint, text);
}

void join_serve(rfaas_client *client)
{
    if (client->joiner.state == JOIN_HELPER)
        serve_helper(client);
    else if (client->joiner.state == JOIN_WELCOME)
        serve_welcome(client);
}
