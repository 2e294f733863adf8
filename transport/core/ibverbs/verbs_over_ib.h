/* verbs_over_ib.h - the operations of verbs_link.h over libibverbs: a reliable connected queue pair a link. */
#ifndef RFAAS_VERBS_OVER_IB_H
#define RFAAS_VERBS_OVER_IB_H

#include "verbs_link.h"

extern const rfaas_verbs_ops rfaas_verbs;

#endif
