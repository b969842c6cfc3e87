/*
 * wire/codec.h - the table of muster.codec/1: value.h and writer.h behind the plugin ABI. Any
 * thread.
 */
#ifndef MUSTER_WIRE_CODEC_H
#define MUSTER_WIRE_CODEC_H

#include <muster/plugin.h>

const struct muster_codec *codec_table(void);

#endif
