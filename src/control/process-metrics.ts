/**
 * What Prometheus' client libraries tell of any process, under the names they share. The library's own
 * set comes only as a whole, with a timer of 10 ms for the event loop's delay and an observer of every
 * garbage collection: a daemon with idle guests must not wake for that. These cost nothing but when
 * they are asked for.
 */

import { readdirSync, readFileSync } from 'node:fs';

export interface ProcessMetric {
  readonly name: string;
  readonly help: string;
  readonly type: 'counter' | 'gauge';
  readonly value: number;
}

const MICROS = 1e-6;
const KIB = 1024;
/** Once: a clock that is set later must not move it. */
const START_SECONDS = Math.round(Date.now() / 1000 - process.uptime());

/** Of all threads together. */
export function processMetrics(): ProcessMetric[] {
  const { user, system } = process.cpuUsage();
  const counter = (name: string, help: string, value: number): ProcessMetric => {
    return { name, help, type: 'counter', value };
  };
  const gauge = (name: string, help: string, value: number): ProcessMetric => {
    return { name, help, type: 'gauge', value };
  };
  return [
    counter('process_cpu_seconds_total', 'CPU time, all threads', (user + system) * MICROS),
    counter('process_cpu_user_seconds_total', 'CPU time in user mode', user * MICROS),
    counter('process_cpu_system_seconds_total', 'CPU time in the kernel', system * MICROS),
    gauge('process_start_time_seconds', 'when it started, seconds since 1970', START_SECONDS),
    gauge(
      'process_resident_memory_bytes',
      "resident memory; stored pages and lately touched pages of guests' own memory count too",
      process.memoryUsage.rss(),
    ),
    gauge('process_virtual_memory_bytes', 'address space', field('status', 'VmSize') * KIB),
    // One is the listing's own.
    gauge('process_open_fds', 'open file descriptors', readdirSync('/proc/self/fd').length - 1),
    gauge('process_max_fds', 'open file descriptors allowed', field('limits', 'Max open files')),
  ];
}

/** The first number behind a name in a file of /proc/self; no number: no limit. */
function field(file: string, name: string): number {
  const line = readFileSync(`/proc/self/${file}`, 'utf8')
    .split('\n')
    .find((text) => text.startsWith(name));
  const digits = /\d+/.exec(line?.slice(name.length) ?? '');
  return digits === null ? Number.POSITIVE_INFINITY : Number(digits[0]);
}
