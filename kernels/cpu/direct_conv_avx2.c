/* The loops of direct_conv.c with vectors of eight values. */
#define LANES 8
#include "direct_conv.c"
