! rfaas.f90 - calling functions on harvested cores from Fortran: rfaas.h through iso_c_binding.
!
! Compile it with the program (compilers don't read each other's modules), then link librfaas:
!
!     gfortran $(rfaas config --cflags) -o program $(rfaas config --fortran) program.f90 $(rfaas config --libs)
!
! Every function returns rfaas_success, rfaas_pending or the code of an error, which `error` describes; rfaas_message makes
! text of it. What rfaas.h says of buffers holds: between rfaas_submit and the call's end `input` and `output` belong to the library; give both the attribute
! `asynchronous` and pass contiguous arrays, no sections with strides: the compiler would pass a copy.
! Buffers may be arrays of any type and rank. Sizes are bytes, as storage_size(x) / 8 * size(x) gives them.
module rfaas
    use, intrinsic :: iso_c_binding
    implicit none
    private

    integer(c_int), parameter, public :: &
        rfaas_success = 0, rfaas_pending = 1, &
        rfaas_error_config = 10, rfaas_error_allocator_unavailable = 11, rfaas_error_version_mismatch = 12, &
        rfaas_error_authentication_failed = 13, rfaas_error_acquire_timeout = 14, rfaas_error_lease_denied = 15, &
        rfaas_error_environment_failed = 16, rfaas_error_reclaimed = 17, rfaas_error_worker_lost = 18, &
        rfaas_error_function_oom = 19, rfaas_error_agent_lost = 20, rfaas_error_node_lost = 21, &
        rfaas_error_connection_lost = 22, rfaas_error_deadline_exceeded = 23, rfaas_error_poison_function = 24, &
        rfaas_error_cancelled = 25, rfaas_error_payload_too_large = 26, rfaas_error_bad_function = 27, &
        rfaas_error_remote = 28, rfaas_error_function = 29, rfaas_error_protocol = 30, rfaas_error_argument = 40, &
        rfaas_error_no_memory = 41, rfaas_error_forked = 42, rfaas_error_system = 43

    integer, parameter :: error_bytes = 1032 ! sizeof(rfaas_error); a test compares

    ! What went wrong; see rfaas.h. Text by rfaas_message.
    type, bind(c), public :: rfaas_error
        integer(c_int32_t) :: struct_size = error_bytes
        integer(c_int32_t) :: code = 0, reason = 0, value = 0, may_have_run = 0, retriable = 0, phase = 0, attempt = 0
        real(c_double) :: grace_s = -1
        integer(c_int64_t) :: needed_size = 0, epoch = 0
        integer(c_int8_t) :: lease_id(16) = 0
        character(kind=c_char) :: node(64) = c_null_char, message(512) = c_null_char, hint(384) = c_null_char
    end type

    type, public :: rfaas_client
        private
        type(c_ptr) :: handle = c_null_ptr
    end type

    type, public :: rfaas_function
        private
        type(c_ptr) :: handle = c_null_ptr
    end type

    type, public :: rfaas_call
        private
        type(c_ptr) :: handle = c_null_ptr
    end type

    ! Counts since rfaas_connect; see rfaas.h.
    type, bind(c), public :: rfaas_client_statistics
        integer(c_int32_t) :: struct_size = 104, workers = 0, queued = 0, running = 0
        integer(c_int64_t) :: submitted = 0, dispatched = 0, answered = 0, failed = 0, cancelled = 0, redispatched = 0, &
            retried = 0, reclaimed = 0, notices = 0, late_results = 0, sessions_lost = 0
    end type

    type, bind(c) :: c_options
        integer(c_int32_t) :: struct_size, max_workers, cores, idempotent, retries, show_output
        integer(c_int64_t) :: memory_bytes
        real(c_double) :: call_timeout_s, acquire_timeout_s, hot_for_s, spin_for_s, connect_timeout_s
        type(c_ptr) :: allocator, python, transport, placement, load
    end type

    type, bind(c) :: c_call_options
        integer(c_int32_t) :: struct_size, idempotent, retries
        real(c_double) :: call_timeout_s
    end type

    public :: rfaas_connect, rfaas_disconnect, rfaas_function_from_library, rfaas_invoke, rfaas_submit, rfaas_wait, &
        rfaas_wait_any, rfaas_cancel, rfaas_progress, rfaas_get_statistics, rfaas_why_waiting, rfaas_message, &
        rfaas_is_pending, rfaas_api_version

    interface
        subroutine c_options_init(options, struct_size) bind(c, name="rfaas_options_init")
            import :: c_options, c_size_t
            type(c_options), intent(out) :: options
            integer(c_size_t), value :: struct_size
        end subroutine

        integer(c_int) function c_connect(options, client, error) bind(c, name="rfaas_connect")
            import :: c_int, c_ptr, c_options, rfaas_error
            type(c_options), intent(in) :: options
            type(c_ptr), intent(out) :: client
            type(rfaas_error), intent(in out) :: error
        end function

        subroutine c_disconnect(client) bind(c, name="rfaas_disconnect")
            import :: c_ptr
            type(c_ptr), value :: client
        end subroutine

        integer(c_int) function c_function(client, path, symbol, abi, found, error) &
            bind(c, name="rfaas_function_from_library")
            import :: c_int, c_ptr, c_char, rfaas_error
            type(c_ptr), value :: client
            character(kind=c_char), intent(in) :: path(*), symbol(*)
            type(c_ptr), value :: abi
            type(c_ptr), intent(out) :: found
            type(rfaas_error), intent(in out) :: error
        end function

        integer(c_int) function c_invoke(client, called, input, in_size, output, out_size, error) &
            bind(c, name="rfaas_invoke")
            import :: c_int, c_int64_t, c_ptr, rfaas_error
            type(c_ptr), value :: client, called
            type(*), intent(in) :: input(*)
            integer(c_int64_t), value :: in_size
            type(*), intent(in out) :: output(*)
            integer(c_int64_t), intent(in out) :: out_size
            type(rfaas_error), intent(in out) :: error
        end function

        integer(c_int) function c_submit(client, called, input, in_size, output, out_capacity, options, call, error) &
            bind(c, name="rfaas_submit")
            import :: c_int, c_int64_t, c_ptr, c_call_options, rfaas_error
            type(c_ptr), value :: client, called
            type(*), intent(in), asynchronous :: input(*)
            integer(c_int64_t), value :: in_size
            type(*), intent(in out), asynchronous :: output(*)
            integer(c_int64_t), value :: out_capacity
            type(c_call_options), intent(in) :: options
            type(c_ptr), intent(out) :: call
            type(rfaas_error), intent(in out) :: error
        end function

        integer(c_int) function c_wait(call, timeout_s, out_size, error) bind(c, name="rfaas_wait")
            import :: c_int, c_int64_t, c_double, c_ptr, rfaas_error
            type(c_ptr), intent(in out) :: call
            real(c_double), value :: timeout_s
            integer(c_int64_t), intent(out) :: out_size
            type(rfaas_error), intent(in out) :: error
        end function

        integer(c_int) function c_wait_any(calls, n, timeout_s, index, out_size, error) bind(c, name="rfaas_wait_any")
            import :: c_int, c_int64_t, c_size_t, c_double, c_ptr, rfaas_error
            type(c_ptr), intent(in out) :: calls(*)
            integer(c_size_t), value :: n
            real(c_double), value :: timeout_s
            integer(c_size_t), intent(out) :: index
            integer(c_int64_t), intent(out) :: out_size
            type(rfaas_error), intent(in out) :: error
        end function

        integer(c_int) function c_cancel(call, interrupt) bind(c, name="rfaas_cancel")
            import :: c_int, c_ptr
            type(c_ptr), value :: call
            integer(c_int), value :: interrupt
        end function

        integer(c_int) function c_progress(client, timeout_s) bind(c, name="rfaas_progress")
            import :: c_int, c_double, c_ptr
            type(c_ptr), value :: client
            real(c_double), value :: timeout_s
        end function

        integer(c_int) function c_get_statistics(client, statistics) bind(c, name="rfaas_get_statistics")
            import :: c_int, c_ptr, rfaas_client_statistics
            type(c_ptr), value :: client
            type(rfaas_client_statistics), intent(in out) :: statistics
        end function

        integer(c_int) function c_why_waiting(client, text, room) bind(c, name="rfaas_why_waiting")
            import :: c_int, c_size_t, c_char, c_ptr
            type(c_ptr), value :: client
            character(kind=c_char), intent(out) :: text(*)
            integer(c_size_t), value :: room
        end function

        integer(c_int) function rfaas_api_version() bind(c, name="rfaas_api_version")
            import :: c_int
        end function

        integer(c_size_t) function c_error_text(error, text, room) bind(c, name="rfaas_error_text")
            import :: c_size_t, c_char, rfaas_error
            type(rfaas_error), intent(in) :: error
            character(kind=c_char), intent(out) :: text(*)
            integer(c_size_t), value :: room
        end function
    end interface

contains

    ! Connects; what is left out is as set elsewhere (docs/configuration.md). `error` is in no procedure optional: who does
    ! not want to know what went wrong ignores it.
    integer(c_int) function rfaas_connect(client, error, &
        max_workers, cores, memory_bytes, idempotent, retries, show_output, call_timeout_s, acquire_timeout_s, hot_for_s, &
        spin_for_s, connect_timeout_s, allocator, python, transport, placement, load) result(code)
        type(rfaas_client), intent(out) :: client
        type(rfaas_error), intent(in out) :: error
        integer, intent(in), optional :: max_workers, cores, retries
        integer(c_int64_t), intent(in), optional :: memory_bytes
        logical, intent(in), optional :: idempotent, show_output
        real(c_double), intent(in), optional :: call_timeout_s, acquire_timeout_s, hot_for_s, spin_for_s, connect_timeout_s
        character(*), intent(in), optional :: allocator, python, transport, placement, load
        type(c_options) :: options
        character(kind=c_char, len=:), allocatable, target :: allocator_text, python_text, transport_text, &
            placement_text, load_text

        call c_options_init(options, c_sizeof(options))
        if (present(max_workers)) options%max_workers = max_workers
        if (present(cores)) options%cores = cores
        if (present(retries)) options%retries = retries
        if (present(memory_bytes)) options%memory_bytes = memory_bytes
        if (present(idempotent)) options%idempotent = merge(1, 0, idempotent)
        if (present(show_output)) options%show_output = merge(1, 0, show_output)
        if (present(call_timeout_s)) options%call_timeout_s = call_timeout_s
        if (present(acquire_timeout_s)) options%acquire_timeout_s = acquire_timeout_s
        if (present(hot_for_s)) options%hot_for_s = hot_for_s
        if (present(spin_for_s)) options%spin_for_s = spin_for_s
        if (present(connect_timeout_s)) options%connect_timeout_s = connect_timeout_s
        call set_text(options%allocator, allocator_text, allocator)
        call set_text(options%python, python_text, python)
        call set_text(options%transport, transport_text, transport)
        call set_text(options%placement, placement_text, placement)
        call set_text(options%load, load_text, load)
        code = c_connect(options, client%handle, error)
    end function

    ! Gives everything back; calls and functions of this client are void afterwards.
    subroutine rfaas_disconnect(client)
        type(rfaas_client), intent(in out) :: client
        call c_disconnect(client%handle)
        client%handle = c_null_ptr
    end subroutine

    ! Makes `symbol` of a shared library known; abi is "rfaas-1" unless given.
    integer(c_int) function rfaas_function_from_library(client, path, symbol, found, error, abi) result(code)
        type(rfaas_client), intent(in) :: client
        character(*), intent(in) :: path, symbol
        type(rfaas_function), intent(out) :: found
        type(rfaas_error), intent(in out) :: error
        character(*), intent(in), optional :: abi
        character(kind=c_char, len=:), allocatable, target :: abi_text
        type(c_ptr) :: abi_pointer
        abi_pointer = c_null_ptr
        call set_text(abi_pointer, abi_text, abi)
        code = c_function(client%handle, trim(path) // c_null_char, trim(symbol) // c_null_char, abi_pointer, &
            found%handle, error)
    end function

    ! Calls and waits. out_size: the room at `output` before, the bytes written after.
    integer(c_int) function rfaas_invoke(client, called, input, in_size, output, out_size, error) result(code)
        type(rfaas_client), intent(in) :: client
        type(rfaas_function), intent(in) :: called
        type(*), intent(in) :: input(*)
        integer(c_int64_t), intent(in) :: in_size
        type(*), intent(in out) :: output(*)
        integer(c_int64_t), intent(in out) :: out_size
        type(rfaas_error), intent(in out) :: error
        code = c_invoke(client%handle, called%handle, input, in_size, output, out_size, error)
    end function

    ! Submits a call, to be waited for. idempotent, retries, call_timeout_s: of this call, else as the client's.
    integer(c_int) function rfaas_submit(client, called, input, in_size, output, out_capacity, call, error, &
        idempotent, retries, call_timeout_s) result(code)
        type(rfaas_client), intent(in) :: client
        type(rfaas_function), intent(in) :: called
        type(*), intent(in), asynchronous :: input(*)
        integer(c_int64_t), intent(in) :: in_size, out_capacity
        type(*), intent(in out), asynchronous :: output(*)
        type(rfaas_call), intent(out) :: call
        type(rfaas_error), intent(in out) :: error
        logical, intent(in), optional :: idempotent
        integer, intent(in), optional :: retries
        real(c_double), intent(in), optional :: call_timeout_s
        type(c_call_options) :: options
        options = c_call_options(int(c_sizeof(options), c_int32_t), -1, 0, -1.0_c_double)
        if (present(idempotent)) options%idempotent = merge(1, 0, idempotent)
        if (present(retries)) options%retries = retries
        if (present(call_timeout_s)) options%call_timeout_s = call_timeout_s
        code = c_submit(client%handle, called%handle, input, in_size, output, out_capacity, options, call%handle, error)
    end function

    ! Waits for a call, for ever or timeout_s; 0 looks only. Unless it is rfaas_pending the call is over and its handle void.
    integer(c_int) function rfaas_wait(call, error, timeout_s, out_size) result(code)
        type(rfaas_call), intent(in out) :: call
        type(rfaas_error), intent(in out) :: error
        real(c_double), intent(in), optional :: timeout_s
        integer(c_int64_t), intent(out), optional :: out_size
        integer(c_int64_t) :: written
        real(c_double) :: patience_s
        patience_s = -1
        if (present(timeout_s)) patience_s = timeout_s
        written = 0
        code = c_wait(call%handle, patience_s, written, error)
        if (present(out_size)) out_size = written
    end function

    ! Waits until one of several calls is over; `index` counts from 1, and is 0 if it is rfaas_pending or an argument is wrong.
    integer(c_int) function rfaas_wait_any(calls, index, error, timeout_s, out_size) result(code)
        type(rfaas_call), intent(in out) :: calls(:)
        integer, intent(out) :: index
        type(rfaas_error), intent(in out) :: error
        real(c_double), intent(in), optional :: timeout_s
        integer(c_int64_t), intent(out), optional :: out_size
        type(c_ptr) :: handles(size(calls))
        integer(c_size_t) :: found
        integer(c_int64_t) :: written
        real(c_double) :: patience_s
        patience_s = -1
        if (present(timeout_s)) patience_s = timeout_s
        handles = calls%handle
        found = size(calls)
        written = 0
        code = c_wait_any(handles, int(size(calls), c_size_t), patience_s, found, written, error)
        calls%handle = handles
        index = merge(int(found) + 1, 0, found < size(calls))
        if (present(out_size)) out_size = written
    end function

    ! Asks for the end of a call, which has to be waited for all the same.
    integer(c_int) function rfaas_cancel(call, interrupt) result(code)
        type(rfaas_call), intent(in) :: call
        logical, intent(in), optional :: interrupt
        integer(c_int) :: hard
        hard = 0
        if (present(interrupt)) hard = merge(1, 0, interrupt)
        code = c_cancel(call%handle, hard)
    end function

    ! Makes progress for up to timeout_s.
    integer(c_int) function rfaas_progress(client, timeout_s) result(code)
        type(rfaas_client), intent(in) :: client
        real(c_double), intent(in) :: timeout_s
        code = c_progress(client%handle, timeout_s)
    end function

    integer(c_int) function rfaas_get_statistics(client, statistics) result(code)
        type(rfaas_client), intent(in) :: client
        type(rfaas_client_statistics), intent(in out) :: statistics
        code = c_get_statistics(client%handle, statistics)
    end function

    ! Why calls wait, for people, with the remedy; empty if nobody said so.
    function rfaas_why_waiting(client) result(text)
        type(rfaas_client), intent(in) :: client
        character(:), allocatable :: text
        character(kind=c_char) :: room(520) ! RFAAS_WHY_BYTES
        integer :: i, n
        n = 0
        if (c_why_waiting(client%handle, room, int(size(room), c_size_t)) == rfaas_success) then
            do while (room(n + 1) /= c_null_char)
                n = n + 1
            end do
        end if
        allocate (character(n) :: text)
        do i = 1, n
            text(i:i) = room(i)
        end do
    end function

    ! The text of an error, for people, with its remedy.
    function rfaas_message(error) result(text)
        type(rfaas_error), intent(in) :: error
        character(:), allocatable :: text
        character(kind=c_char) :: room(1200)
        integer :: i, n
        n = min(int(c_error_text(error, room, int(size(room), c_size_t))), size(room) - 1)
        allocate (character(n) :: text)
        do i = 1, n
            text(i:i) = room(i)
        end do
    end function

    ! Whether a call was submitted and not waited for to its end.
    elemental logical function rfaas_is_pending(call)
        type(rfaas_call), intent(in) :: call
        rfaas_is_pending = c_associated(call%handle)
    end function

    ! Points to a copy with a zero at its end, which lives as long as `copy`; untouched if there is no text.
    subroutine set_text(pointer, copy, text)
        type(c_ptr), intent(in out) :: pointer
        character(kind=c_char, len=:), allocatable, target, intent(in out) :: copy
        character(*), intent(in), optional :: text
        if (.not. present(text)) return
        copy = trim(text) // c_null_char
        pointer = c_loc(copy)
    end subroutine
end module
