/* The loops of winograd_conv.c with vectors of eight values. */
#define LANES 8
#include "winograd_conv.c"
