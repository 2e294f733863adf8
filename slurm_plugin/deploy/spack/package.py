"""Spack recipe of rfaas: put it into `packages/py-rfaas/` of a repository of yours, then `spack install py-rfaas`."""

from spack.package import *  # as every recipe does


class PyRfaas(PythonPackage):
    """Functions on the cores and memory that a Slurm cluster leaves idle."""

    git = "file:///opt/src/rfaas"  # your clone

    license("Apache-2.0 AND GPL-2.0-or-later")

    version("main", branch="main")

    # the build takes either where it finds it
    variant("verbs", default=True, description="Channels over RDMA")
    variant("tls", default=True, description="Encrypted channels")

    depends_on("c", type="build")
    depends_on("cmake@3.20:", type="build")
    depends_on("ninja", type="build")
    depends_on("python@3.11:", type=("build", "link", "run"))
    depends_on("py-scikit-build-core@0.10:", type="build")
    depends_on("py-cython@3.0.10:", type="build")
    depends_on("py-click@8:", type=("build", "run"))
    depends_on("py-cloudpickle@3:", type=("build", "run"))
    depends_on("py-cryptography@41:", type=("build", "run"))
    depends_on("py-grpcio@1.62:", type=("build", "run"))
    depends_on("py-msgpack@1:", type=("build", "run"))
    depends_on("py-protobuf@4.25:", type=("build", "run"))
    depends_on("rdma-core", when="+verbs")
    depends_on("openssl@3:", when="+tls")
