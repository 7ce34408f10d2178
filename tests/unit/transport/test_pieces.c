/* A socket that gives a few bytes at a time. */
#include "../../conformance/conformance.h"
#include "../../conformance/pieces.h"

CONFORMANCE(dsm_transport_pieces, "dsm.transport.pieces", &pieces_ops,
            pieces_pair, NULL);
