/** A stand-in for the daemon's devices: figures that a test knows, because it has set them. */

import { FIGURES } from '../../src/control/figures.ts';
import type { MetricsSource } from '../../src/control/metrics.ts';
import type { DaemonStatus, DeviceStatus } from '../../src/control/protocol.ts';
import type { Statistics } from '../../src/store/statistics.ts';

export const LATENCY_BUCKETS = 24;

/** All figures zero but those of `part`. */
export function statisticsOf(part: Partial<Statistics> = {}): Statistics {
  const zeros = Object.entries(FIGURES).map(([name, { kind }]) => {
    if (kind === 'text') return [name, null];
    return [name, kind === 'histogram' ? new Array(LATENCY_BUCKETS).fill(0) : 0];
  });
  return { ...(Object.fromEntries(zeros) as Statistics), ...part };
}

export function deviceOf(device: string, part: Partial<DeviceStatus> = {}): DeviceStatus {
  return {
    device,
    state: 'active',
    connected: true,
    socket: `/run/ramzswap/${device}.sock`,
    thread: 0,
    statistics: statisticsOf(),
    share: null,
    ...part,
  };
}

export class StatusSource implements MetricsSource {
  list: DeviceStatus[];
  status: DaemonStatus = {
    version: '1.2.3',
    process: 4711,
    uptime_seconds: 90,
    threads: 2,
    budget: null,
  };

  constructor(...list: DeviceStatus[]) {
    this.list = list;
  }

  devices(): readonly DeviceStatus[] {
    return this.list;
  }

  daemon(): DaemonStatus {
    return this.status;
  }
}
