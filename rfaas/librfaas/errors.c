/* errors.c - errors on their way to a caller, whose struct may be an older and shorter one. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "client.h"

int copy_error(rfaas_error *to, const rfaas_error *from)
{
    if (to != NULL && to->struct_size >= 2 * sizeof(uint32_t)) {
        uint32_t size_bytes = to->struct_size;
        memcpy(to, from, size_bytes < sizeof *from ? size_bytes : sizeof *from);
        to->struct_size = size_bytes;
    }
    return from->code;
}

int say_error(rfaas_error *error, int code, const char *hint, const char *form, ...)
{
    rfaas_error said = RFAAS_ERROR_INIT;
    va_list arguments;
    va_start(arguments, form);
    vsnprintf(said.message, sizeof said.message, form, arguments);
    va_end(arguments);
    snprintf(said.hint, sizeof said.hint, "%s", hint);
    said.code = code;
    said.retriable = code_is_retriable(code);
    return copy_error(error, &said);
}
