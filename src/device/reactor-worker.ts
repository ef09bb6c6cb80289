/**
 * A reactor thread's entry: builds the devices, announces them, runs the loop, takes orders. It
 * never logs (a thread that does not yield cannot): it posts reports to the control thread.
 */

import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { RefusedError, SystemError } from '../base/errors.ts';
import { abortWith } from '../native/process.ts';
import { BlockDevice } from './block-device.ts';
import type { Order, ReactorOptions, ReactorReport } from './orders.ts';
import type { ReportLevel } from './queue-set.ts';
import { Reactor } from './reactor.ts';

function main(): void {
  const port = parentPort;
  assert(port !== null, 'this file is a worker thread');
  const post = (report: ReactorReport) => port.postMessage(report);
  const options = workerData as ReactorOptions;
  const devices = new Map<string, BlockDevice>();
  const reactor = new Reactor(options.wakeFd, {
    takeOrders: () => {
      for (let it = receiveMessageOnPort(port); it; it = receiveMessageOnPort(port)) {
        obey(reactor, devices, it.message as Order);
      }
    },
    report: (device, level, message) => post({ kind: 'log', device, level, message }),
    connection: (device, isConnected) => post({ kind: 'connection', device, isConnected }),
  });
  try {
    for (const each of options.devices) {
      const report = (level: ReportLevel, message: string) =>
        post({ kind: 'log', device: each.name, level, message });
      const device = new BlockDevice(each, reactor, report);
      devices.set(each.name, device);
      reactor.add(device.queues);
      post({ kind: 'ready', device: each.name, figuresFd: device.store.mapped.shared.fd });
    }
  } catch (error) {
    if (!(error instanceof RefusedError) && !(error instanceof SystemError)) throw error;
    post({ kind: 'refused', reason: error.message });
    return;
  }
  reactor.run();
  reactor.close();
}

function obey(reactor: Reactor, devices: Map<string, BlockDevice>, order: Order): void {
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
      throw new Error('fault injected into the reactor');
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
