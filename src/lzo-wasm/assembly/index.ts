// Entry point of the codec's WebAssembly module: five functions over an imported linear memory.
//
// The module owns no memory: no static data, no globals, no allocator. Every address comes from the
// caller, who vouches for the ranges; what lies *inside* the ranges (guest pages, stored streams)
// is never trusted. The only caller is ../lzo1x.ts.

export { checksum } from './checksum';
export { compress } from './compress';
export { decompress } from './decompress';
export { fill, fillPeriod } from './fill';
