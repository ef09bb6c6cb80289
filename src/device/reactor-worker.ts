/**
 * A reactor thread's entry: builds the devices, announces them, runs the loop, takes orders. It
 * never logs (a thread that does not yield cannot): it posts reports to the control thread.
 */

import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { AssertionError, assert } from '../base/assert.ts';
import { RefusedError } from '../base/errors.ts';
import { closeFd } from '../native/fd.ts';
import { signalDirectly } from '../native/peer-eventfd.ts';
import { abortWith, exitNow, threadId } from '../native/process.ts';
import { connectUnix, isPeerGone, peerProcessId } from '../native/socket.ts';
import { BlockDevice } from './block-device.ts';
import type { DeviceTerms } from './device-terms.ts';
import { reportDiscarded } from './discarding.ts';
import type { DiskOptions } from './disk.ts';
import {
  awaitWord,
  type DeviceState,
  encodeState,
  handoverDeadline,
  KEPT,
  sendState,
  sendWord,
  TAKEN,
  YOURS,
} from './handover.ts';
import type { Order, QueueCall, ReactorOptions, ReactorReport } from './orders.ts';
import { UnsettledError } from './page-owner.ts';
import { Reactor } from './reactor.ts';
import { releaseAll } from './releases.ts';
import { Reports } from './reports.ts';
import { ServiceManager } from './service-manager.ts';
import { ThreadCaller } from './thread-call.ts';
import { warmUp } from './warm-up.ts';

function main(): void {
  const port = parentPort;
  assert(port !== null, 'this file is a worker thread');
  const post = (report: ReactorReport) => port.postMessage(report);
  post({ kind: 'thread', id: threadId() });
  const options = workerData as ReactorOptions;
  reportDiscarded(options.discarded, post);
  if (options.isAlone) signalDirectly();
  const threads = options.lines.map((line) => new ThreadCaller<QueueCall>(line));
  const reports = new Reports((device, level, message) => {
    post({ kind: 'log', device, level, message });
  });
  const reactor = new Reactor(options.wakeFd, {
    takeOrders: () => {
      for (let it = receiveMessageOnPort(port); it; it = receiveMessageOnPort(port)) {
        obey(everything, it.message as Order);
        Atomics.add(options.obeyed, 0, 1);
      }
    },
    report: (...said) => reports.report(...said),
    maintain: () => reports.maintain(),
    connection: (device, isConnected) => post({ kind: 'connection', device, isConnected }),
  });
  const everything: Everything = { reactor, reports, devices: new Map(), threads, post };
  reactor.run();
  const devices = [...everything.devices.values()];
  const released = devices.filter((device) => !device.isWanted);
  reactor.close();
  for (const thread of threads) thread.call({ kind: 'stop' });
  for (const device of devices) device.close();
  reports.endAll();
  for (const { name } of released) post({ kind: 'released', device: name });
}

/** Makes a device, uninitialised. */
function open(terms: DeviceTerms, everything: Everything): void {
  const { reactor, reports, devices, threads, post } = everything;
  const device = terms.name;
  const events = {
    report: reports.of(device),
    running: (isRunning: boolean) => post({ kind: 'running', device, isRunning }),
  };
  const made = new BlockDevice(terms, reactor, events, threads);
  devices.set(device, made);
  reactor.add(made.queues);
}

function init(device: BlockDevice, options: DiskOptions, post: Everything['post']): void {
  answer(post, () => {
    device.init(options);
    return { kind: 'ready', device: device.name, figuresFd: device.store.mapped.shared.fd };
  });
}

function remove(device: BlockDevice, { post, reactor, reports, devices }: Everything): void {
  answer(post, () => {
    device.mustNotRun();
    if (device.isInitialised) device.reset();
    releaseAll(reports.of(device.name), [() => reactor.remove(device), () => device.remove()]);
    devices.delete(device.name);
    reports.end(device.name);
    return { kind: 'done' };
  });
}

/** What has come of an order that may be refused. */
function answer(post: Everything['post'], obey: () => ReactorReport): void {
  try {
    post(obey());
  } catch (error) {
    if (!isRefusal(error)) throw error;
    const isPassing = error instanceof UnsettledError;
    post({ kind: 'refused', reason: error.message, isPassing });
  }
}

/** Sends the device to another process, and ends this one when it is theirs; else serves on. */
function handOver(device: BlockDevice, order: HandOverOrder, post: Everything['post']): void {
  let socket: number | undefined;
  let isPaused = false;
  try {
    socket = connectUnix(order.path);
    const state = device.pause(order.sockets);
    isPaused = true;
    // Only when it is theirs does this return: it does not.
    giveAway(socket, state, order.managerPath);
  } catch (error) {
    if (!isRefusal(error)) throw error;
    if (socket !== undefined) keep(socket);
    if (isPaused) device.resume();
    post({ kind: 'kept', device: device.name, reason: error.message });
  }
}

/** Ends this process when the other one has everything. Throws RefusedError when it has not. */
function giveAway(socket: number, state: DeviceState, managerPath: string | undefined): never {
  const deadline = handoverDeadline();
  sendState(socket, encodeState(state), deadline);
  const word = awaitWord(socket, deadline);
  if (word !== TAKEN) throw new RefusedError('the other process did not take it');
  // Before this one ends: a manager that sees the service's process end takes the service for ended.
  tellManager(managerPath, peerProcessId(socket));
  try {
    sendWord(socket, YOURS, deadline);
  } catch (error) {
    tellManager(managerPath, process.pid);
    throw error;
  }
  // At once: nothing of it may be touched any more.
  exitNow(0);
}

/**
 * Says that this process goes on. Where that cannot be said the socket stays open: its end would mean
 * that this process has ended.
 */
function keep(socket: number): void {
  try {
    sendWord(socket, KEPT, performance.now());
  } catch (error) {
    if (!(error instanceof RefusedError)) throw error;
    if (!isPeerGone(socket)) return;
  }
  closeFd(socket);
}

/** A manager that cannot be told is no reason to stay. */
function tellManager(path: string | undefined, mainProcess: number): void {
  if (path === undefined) return;
  try {
    new ServiceManager({ NOTIFY_SOCKET: path }).notify(`MAINPID=${mainProcess}`);
  } catch (error) {
    if (!isRefusal(error)) throw error;
  }
}

/**
 * What can happen without its being our bug; and what we have not thought of, such as what JavaScript
 * throws for want of memory, is no reason to end everybody's devices: whoever gave the order is told.
 */
function isRefusal(error: unknown): error is Error {
  return error instanceof Error && !(error instanceof AssertionError);
}

type HandOverOrder = Extract<Order, { kind: 'handOver' }>;

interface Everything {
  readonly reactor: Reactor;
  readonly reports: Reports;
  readonly devices: Map<string, BlockDevice>;
  readonly threads: readonly ThreadCaller<QueueCall>[];
  readonly post: (report: ReactorReport) => void;
}

function obey(everything: Everything, order: Order): void {
  const { reactor, devices, threads, post } = everything;
  switch (order.kind) {
    case 'warmUp':
      warmUp();
      for (const thread of threads) thread.call({ kind: 'warmUp' });
      post({ kind: 'warm' });
      return;
    case 'open':
      open(order.terms, everything);
      return;
    case 'init':
      init(named(devices, order.device), order.options, post);
      return;
    case 'remove':
      remove(named(devices, order.device), everything);
      return;
    case 'handOver':
      handOver(named(devices, order.device), order, post);
      return;
    case 'resume':
      reactor.resume(named(devices, order.device), order.listenFd);
      return;
    case 'listen':
      reactor.listen(named(devices, order.device), order.fd);
      return;
    case 'adopt':
      reactor.adopt(named(devices, order.device), order.fd);
      return;
    case 'memlimit':
      named(devices, order.device).setMemlimit(order.bytes);
      return;
    case 'poolLimit':
      named(devices, order.device).setPoolLimit(order.bytes);
      return;
    case 'grow':
      named(devices, order.device).grow(order.bytes);
      return;
    case 'reset':
      answer(post, () => {
        named(devices, order.device).reset();
        return { kind: 'done' };
      });
      return;
    case 'faults':
      named(devices, order.device).setFaults(order.faults);
      return;
    case 'look':
      // Being woken is all: a step of upkeep follows.
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
