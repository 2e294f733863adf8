/* Of the x86-64 levels (v1 to v4 of the psABI) the highest that this CPU and system have; 0 on other machines. */
#ifndef RFAAS_ISA_LEVEL_H
#define RFAAS_ISA_LEVEL_H

int rfaas_isa_level(void);

#endif
