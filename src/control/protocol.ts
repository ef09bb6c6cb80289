/**
 * The control protocol: JSON-RPC 2.0, one message a line, on a Unix socket. Both ends use it from
 * here.
 *
 *   devices    {}                → DeviceStatus[]
 *   statistics { device: name }  → Statistics
 *   setMemlimit { device: name, bytes }  → bytes, in whole pages, as they are from now on
 *   grow { device: name, bytes }         → bytes, in whole guest pages
 *   reset { device: name }               → null, when all pages are freed
 */

import type { Statistics } from '../store/statistics.ts';

export interface DeviceStatus {
  readonly device: string;
  /** A front end is connected. */
  readonly connected: boolean;
  readonly statistics: Statistics;
}

/** JSON-RPC error code for an order that is understood and refused; the message says why. */
export const REFUSED_CODE = -32000;

/** No message is longer; a peer that sends more is cut off. */
export const LINE_BYTES_MAX = 1 << 20;

/**
 * Cuts a stream of text into lines and hands on each; returns false, for good, when a line
 * exceeds the limit.
 */
export function lineSplitter(onLine: (line: string) => void): (chunk: string) => boolean {
  let rest = '';
  return (chunk) => {
    rest += chunk;
    for (let end = rest.indexOf('\n'); end >= 0; end = rest.indexOf('\n')) {
      const line = rest.slice(0, end).trim();
      rest = rest.slice(end + 1);
      if (line !== '') onLine(line);
    }
    return rest.length <= LINE_BYTES_MAX;
  };
}
