-- Module file for Lmod: copy it to modulefiles/rfaas/VERSION.lua and set `root`.
help([[Functions on the cores and memory that this cluster leaves idle: `rfaas up --slurm`, then rfaas.Executor().]])
whatis("Name: rfaas")

local root = "/opt/rfaas" -- a virtual environment that login and compute nodes see alike

prepend_path("PATH", pathJoin(root, "bin"))
setenv("RFAAS_DAEMON_PYTHON", pathJoin(root, "bin", "python"))
