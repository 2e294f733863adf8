#%Module1.0
# Module file for Environment Modules: copy it to modulefiles/rfaas/VERSION and set `root`.
proc ModulesHelp { } {
    puts stderr "Functions on the cores and memory that this cluster leaves idle: rfaas up --slurm, then rfaas.Executor()."
}
module-whatis "Functions on the idle cores of this cluster"

set root /opt/rfaas ;# a virtual environment that login and compute nodes see alike

prepend-path PATH $root/bin
setenv RFAAS_DAEMON_PYTHON $root/bin/python
