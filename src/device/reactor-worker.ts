/**
 * A reactor thread's entry: builds the devices, announces them, runs the loop, takes orders. It
 * never logs (a thread that does not yield cannot): it posts reports to the control thread.
 */

import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { RefusedError, SystemError } from '../base/errors.ts';
import { abortWith } from '../native/process.ts';
import { BlockDevice, type BlockDeviceOptions } from './block-device.ts';
import type { Order, QueueCall, ReactorOptions, ReactorReport } from './orders.ts';
import type { ReportLevel } from './queue-set.ts';
import { Reactor } from './reactor.ts';
import { ThreadCaller } from './thread-call.ts';

function main(): void {
  const port = parentPort;
  assert(port !== null, 'this file is a worker thread');
  const post = (report: ReactorReport) => port.postMessage(report);
  const options = workerData as ReactorOptions;
  const threads = options.lines.map((line) => new ThreadCaller<QueueCall>(line));
  const reactor = new Reactor(options.wakeFd, {
    takeOrders: () => {
      for (let it = receiveMessageOnPort(port); it; it = receiveMessageOnPort(port)) {
        obey(everything, it.message as Order);
      }
    },
    report: (device, level, message) => post({ kind: 'log', device, level, message }),
    connection: (device, isConnected) => post({ kind: 'connection', device, isConnected }),
  });
  const everything: Everything = { reactor, devices: new Map(), threads };
  const refusal = makeDevices(options.devices, everything, post);
  if (refusal === undefined) reactor.run();
  reactor.close();
  for (const thread of threads) thread.call({ kind: 'stop' });
  if (refusal === undefined) for (const device of everything.devices.values()) device.close();
  if (refusal !== undefined) post({ kind: 'refused', reason: refusal });
}

/** Why they cannot be made; undefined: they are. */
function makeDevices(
  wanted: readonly BlockDeviceOptions[],
  { reactor, devices, threads }: Everything,
  post: (report: ReactorReport) => void,
): string | undefined {
  try {
    for (const each of wanted) {
      const report = (level: ReportLevel, message: string) =>
        post({ kind: 'log', device: each.name, level, message });
      const device = new BlockDevice(each, reactor, report, threads);
      devices.set(each.name, device);
      reactor.add(device.queues);
      post({ kind: 'ready', device: each.name, figuresFd: device.store.mapped.shared.fd });
    }
    return undefined;
  } catch (error) {
    if (error instanceof RefusedError || error instanceof SystemError) return error.message;
    throw error;
  }
}

interface Everything {
  readonly reactor: Reactor;
  readonly devices: Map<string, BlockDevice>;
  readonly threads: readonly ThreadCaller<QueueCall>[];
}

function obey({ reactor, devices, threads }: Everything, order: Order): void {
  switch (order.kind) {
    case 'listen':
      reactor.listen(named(devices, order.device), order.fd);
      return;
    case 'adopt':
      reactor.adopt(named(devices, order.device), order.fd);
      return;
    case 'memlimit':
      named(devices, order.device).setMemlimit(order.bytes);
      return;
    case 'grow':
      named(devices, order.device).grow(order.bytes);
      return;
    case 'faults':
      named(devices, order.device).setFaults(order.faults);
      return;
    case 'stop':
      reactor.stop();
      return;
    case 'fail':
      if (order.where === 'reactor') throw new Error('fault injected into the reactor');
      threads[0]?.call({ kind: 'fail' });
      return;
  }
}

function named(devices: Map<string, BlockDevice>, name: string): BlockDevice {
  const device = devices.get(name);
  assert(device !== undefined, 'orders name devices of this reactor');
  return device;
}

try {
  main();
} catch (error) {
  abortWith('a reactor', error);
}
