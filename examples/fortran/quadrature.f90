! quadrature.f90 - pi as an integral, its intervals computed on harvested cores.
!
!     make && ./quadrature
program quadrature
    use, intrinsic :: iso_c_binding
    use rfaas
    implicit none

    integer, parameter :: n_intervals = 200, n_panels = 2000
    type(rfaas_client) :: client
    type(rfaas_function) :: integrate
    type(rfaas_error) :: error
    type(rfaas_call) :: calls(n_intervals)
    type(rfaas_client_statistics) :: counted
    real(c_double), asynchronous :: intervals(3, n_intervals), parts(1, n_intervals)
    real(c_double) :: one(3), whole(1), total
    integer(c_int64_t) :: out_size
    integer :: i, n_answers, which

    call check(rfaas_connect(client, error, max_workers=4, idempotent=.true., retries=3), "no workers")
    call check(rfaas_function_from_library(client, library(), "integrate", integrate, error), "no function")

    ! One call at a time: the shortest way.
    one = [0d0, 1d0, real(n_panels, c_double)]
    out_size = 8
    call check(rfaas_invoke(client, integrate, one, 24_c_int64_t, whole, out_size, error), "the call failed")
    print '(a, f18.15)', "in one call:  ", whole(1)

    ! Many at a time.
    do i = 1, n_intervals
        intervals(:, i) = [real(i - 1, c_double) / n_intervals, real(i, c_double) / n_intervals, real(n_panels, c_double)]
        call check(rfaas_submit(client, integrate, intervals(:, i), 24_c_int64_t, parts(:, i), 8_c_int64_t, calls(i), error), &
            "the call was not taken")
    end do
    n_answers = 0
    do while (any(rfaas_is_pending(calls)))
        call check(rfaas_wait_any(calls, which, error), "a call failed")
        n_answers = n_answers + 1
    end do
    total = sum(parts)
    call check(rfaas_get_statistics(client, counted), "no statistics")
    print '(a, f18.15, a, i0, a, i0, a)', "in many calls:", total, " (", counted%submitted - 1, " calls, ", n_answers, " answers)"
    call rfaas_disconnect(client)
    if (abs(total - acos(-1d0)) > 1d-12 .or. n_answers /= n_intervals) error stop "that is not pi"

contains

    subroutine check(code, what)
        integer(c_int), intent(in) :: code
        character(*), intent(in) :: what
        if (code == rfaas_success) return
        print '(3a)', what, ": ", rfaas_message(error)
        error stop 1
    end subroutine

    ! The library lies beside this program.
    function library() result(path)
        character(:), allocatable :: path
        character(4096) :: name
        call get_command_argument(0, name)
        path = name(1:index(name, "/", back=.true.)) // "libquadrature.so"
        if (index(path, "/") == 0) path = "./" // path
    end function
end program
