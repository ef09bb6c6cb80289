/** What is told of the process, beside what the kernel says. */

import { closeSync, openSync, readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { processMetrics } from '../../src/control/process-metrics.ts';

function read(): Record<string, number> {
  return Object.fromEntries(processMetrics().map(({ name, value }) => [name, value]));
}

it('is what the kernel says of this process', () => {
  const got = read();
  const kib = (field: string) =>
    Number(new RegExp(`${field}:\\s+(\\d+)`).exec(readFileSync('/proc/self/status', 'utf8'))?.[1]);
  expect(got.process_resident_memory_bytes! / 1024 / kib('VmRSS')).toBeCloseTo(1, 0);
  expect(got.process_virtual_memory_bytes! / 1024 / kib('VmSize')).toBeCloseTo(1, 1);
  const limit = /Max open files\s+(\S+)/.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1];
  expect(got.process_max_fds).toBe(
    limit === 'unlimited' ? Number.POSITIVE_INFINITY : Number(limit),
  );
  expect(got.process_start_time_seconds).toBeCloseTo(Date.now() / 1000 - process.uptime(), -1);
});

it('counts a descriptor that was opened', () => {
  const before = read().process_open_fds!;
  const fd = openSync('/dev/null', 'r');
  expect(read().process_open_fds).toBe(before + 1);
  closeSync(fd);
  expect(read().process_open_fds).toBe(before);
});

it('counts CPU time as it is spent, in seconds', () => {
  const before = read().process_cpu_seconds_total!;
  const end = process.cpuUsage().user + 200_000;
  while (process.cpuUsage().user < end);
  const spent = read().process_cpu_seconds_total! - before;
  expect(spent).toBeGreaterThan(0.15);
  expect(spent).toBeLessThan(5);
});
