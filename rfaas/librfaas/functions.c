/* functions.c - making functions known: a shared library read whole, checked as far as its first bytes tell. 001 section 2. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client.h"
#include "entries.h"

#if defined(__x86_64__)
#define OWN_ISA "x86-64"
#define OWN_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define OWN_ISA "aarch64"
#define OWN_MACHINE EM_AARCH64
#elif defined(__powerpc64__)
#define OWN_ISA "ppc64"
#define OWN_MACHINE EM_PPC64
#elif defined(__riscv)
#define OWN_ISA "riscv"
#define OWN_MACHINE EM_RISCV
#else
#define OWN_ISA "any"
#define OWN_MACHINE EM_NONE
#endif

static void *read_whole(int fd, size_t size_bytes)
{
    uint8_t *bytes = malloc(size_bytes + 1); /* of an empty file something too */
    size_t got_bytes = 0;
    while (bytes != NULL && got_bytes < size_bytes) {
        ssize_t n = read(fd, bytes + got_bytes, size_bytes - got_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) { /* it shrinks while it is read */
            free(bytes);
            errno = n == 0 ? EIO : errno;
            return NULL;
        }
        got_bytes += (size_t)n;
    }
    return bytes;
}

/* The bytes of a file; NULL with errno. */
static void *read_file(const char *path, size_t *size_bytes)
{
    struct stat about;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe would block */
    if (fd < 0)
        return NULL;
    void *bytes = NULL;
    int stated = fstat(fd, &about);
    if (stated != 0 || !S_ISREG(about.st_mode))
        errno = stated == 0 && S_ISDIR(about.st_mode) ? EISDIR : EINVAL;
    else if ((uint64_t)about.st_size > PAYLOAD_BYTES_MAX / 2)
        errno = EFBIG;
    else
        bytes = read_whole(fd, *size_bytes = (size_t)about.st_size);
    int error = errno;
    close(fd);
    errno = error;
    return bytes;
}

/* NULL, or what is wrong with it. */
static const char *wrong_with(const uint8_t *bytes, size_t size_bytes)
{
    Elf64_Ehdr head;
    if (size_bytes < sizeof head || memcmp(bytes, ELFMAG, SELFMAG) != 0)
        return "it is no ELF file";
    memcpy(&head, bytes, sizeof head);
    if (head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_type != ET_DYN)
        return "it is no shared library of 64 bits";
    if (OWN_MACHINE != EM_NONE && head.e_machine != OWN_MACHINE)
        return "it is for another instruction set than this program (" OWN_ISA ")";
    return NULL;
}

static void pack_manifest(rfaas_function *function, const char *symbol, const char *abi)
{
    pack_writer *out = &function->manifest;
    pack_map(out, 5);
    pack_text(out, "kind");
    pack_text(out, "native");
    pack_text(out, "abi");
    pack_text(out, abi);
    pack_text(out, "isa");
    pack_text(out, OWN_ISA);
    pack_text(out, "entry");
    pack_text(out, symbol);
    pack_text(out, "blobs");
    pack_array(out, 1);
    pack_bytes(out, function->digest, sizeof function->digest);
}

void function_free(rfaas_function *function)
{
    pack_free(&function->manifest);
    free(function->blob);
    free(function);
}

static int refuse(rfaas_error *error, const char *path, const char *why)
{
    return say_error(error, RFAAS_ERROR_CONFIG, "build it by cc -O3 -fPIC -shared -o libkernel.so kernel.c",
                     "%s can't be used as a library of functions: %s", path, why);
}

int rfaas_function_from_library(rfaas_client *client, const char *path, const char *symbol, const char *abi,
                                rfaas_function **function, rfaas_error *error)
{
    if (function != NULL)
        *function = NULL;
    abi = abi == NULL ? "rfaas-1" : abi;
    if (client == NULL || path == NULL || symbol == NULL || symbol[0] == '\0' || function == NULL)
        return say_error(error, RFAAS_ERROR_ARGUMENT, "", "rfaas_function_from_library needs a client, a path, a symbol and a place");
    if (strcmp(abi, "rfaas-1") != 0 && strcmp(abi, "rfaas-0") != 0)
        return say_error(error, RFAAS_ERROR_CONFIG, "leave it NULL", "there is no abi %s", abi);
    if (!entry_is_allowed(client))
        return entry_refused(error);
    size_t size_bytes = 0;
    uint8_t *bytes = read_file(path, &size_bytes);
    if (bytes == NULL) {
        char why[80] = "";
        return errno == ENOMEM ? say_error(error, RFAAS_ERROR_NO_MEMORY, "", "no memory for %s", path)
                               : refuse(error, path, strerror_r(errno, why, sizeof why));
    }
    const char *wrong = wrong_with(bytes, size_bytes);
    rfaas_function *made = wrong == NULL ? calloc(1, sizeof *made) : NULL;
    if (made == NULL) {
        free(bytes);
        return wrong != NULL ? refuse(error, path, wrong)
                             : say_error(error, RFAAS_ERROR_NO_MEMORY, "", "no memory for a function");
    }
    made->client = client;
    made->blob = bytes;
    made->blob_bytes = size_bytes;
    sha256(bytes, size_bytes, made->digest);
    pack_manifest(made, symbol, abi);
    if (made->manifest.failed) {
        function_free(made);
        return say_error(error, RFAAS_ERROR_NO_MEMORY, "", "no memory for a function");
    }
    entry_lock(client);
    made->number = client->n_functions++;
    made->next = client->functions;
    client->functions = made;
    entry_unlock(client);
    *function = made;
    return entry_succeeded(error);
}
