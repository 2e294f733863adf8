! quadrature_kernel.f90 - the function of quadrature.f90 that runs on harvested cores: the integral of 4 / (1 + x^2) over one
! interval by Gauss's rule of five points on many panels. In: left, right, number of panels (doubles). Out: one double.
module quadrature_kernel
    use, intrinsic :: iso_c_binding
    implicit none
contains
    integer(c_int32_t) function integrate(input, in_size, output, out_size, ctx) bind(c, name="integrate") result(status)
        type(c_ptr), value :: input, output, ctx
        integer(c_int64_t), value :: in_size
        integer(c_int64_t), intent(in out) :: out_size
        real(c_double), pointer :: interval(:), total
        real(c_double), parameter :: nodes(5) = [-0.9061798459386640d0, -0.5384693101056831d0, 0.0d0, &
            0.5384693101056831d0, 0.9061798459386640d0]
        real(c_double), parameter :: weights(5) = [0.2369268850561891d0, 0.4786286704993665d0, 0.5688888888888889d0, &
            0.4786286704993665d0, 0.2369268850561891d0]
        real(c_double) :: half, middle, x(5)
        integer :: panel, n_panels

        status = 1
        if (in_size /= 24 .or. out_size < 8 .or. .not. c_associated(ctx)) return
        call c_f_pointer(input, interval, [3])
        call c_f_pointer(output, total)
        n_panels = nint(interval(3))
        half = (interval(2) - interval(1)) / (2 * n_panels)
        total = 0
        do panel = 1, n_panels
            middle = interval(1) + half * (2 * panel - 1)
            x = middle + half * nodes
            total = total + half * sum(weights * 4 / (1 + x**2))
        end do
        out_size = 8
        status = 0
    end function
end module
