"""The harvester: a process that submits and watches preemptible jobs, and the files that it keeps."""
