/**
 * A libvirt for tests: a libvirtd of its own in session mode, with everything that it reads and
 * writes in one folder, and virsh to talk to it. As root it is nobody's: then QEMU has another user
 * than the daemon, as under the system's libvirt. The machine's own libvirt is not touched.
 */

import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { findProgram } from '../../scripts/setup.ts';
import { until } from '../driver/daemon.ts';
import { AS_NOBODY, NOBODY } from '../driver/nobody.ts';

const ANSWER_MILLIS_MAX = 120_000;
const SYSTEM_PATH = '/usr/sbin:/sbin';
const PATH = `${process.env.PATH}:${SYSTEM_PATH}`;
const EMULATOR = 'qemu-system-x86_64';
const isRoot = process.getuid?.() === 0;
const AS_USER = isRoot ? AS_NOBODY : ['setpriv'];

/** The group of QEMU's user, where the daemon's is another. */
export const QEMU_GROUP = isRoot ? NOBODY : undefined;

/** Why no libvirt can be started here; undefined: it can. */
export function whyNoLibvirt(): string | undefined {
  const missing = ['libvirtd', 'virsh', 'setpriv'].filter((name) => !findProgram(name));
  return missing.length === 0 ? undefined : `not installed: ${missing.join(', ')}`;
}

/** Before it answers it asks each QEMU that it finds what it can, for seconds: it is shown one. */
function startLibvirtd(env: Record<string, string>, programs: string) {
  const [setpriv, ...user] = AS_USER;
  const path = `PATH=${programs}:${SYSTEM_PATH}`;
  return execa(setpriv!, ['--pdeathsig', 'KILL', ...user, 'env', path, 'libvirtd'], {
    ...{ env, extendEnv: false, cwd: '/' },
    ...{ stdin: 'ignore', all: true, reject: false },
  });
}

function pathOf(program: string): string {
  const found = PATH.split(':')
    .map((folder) => join(folder, program))
    .find((path) => existsSync(path));
  if (found === undefined) throw new Error(`${program}: expected it in ${PATH}`);
  return found;
}

export class Libvirt {
  /** For what QEMU must be able to read. */
  readonly folder: string;
  readonly #env: Record<string, string>;
  readonly #process: ReturnType<typeof startLibvirtd>;

  private constructor() {
    this.folder = mkdtempSync(join(tmpdir(), 'rz-libvirt-'));
    // QEMU's user goes through it.
    chmodSync(this.folder, 0o711);
    this.#env = { PATH, HOME: this.#makeFolder('home'), LC_ALL: 'C' };
    for (const name of ['RUNTIME_DIR', 'CONFIG_HOME', 'CACHE_HOME', 'DATA_HOME']) {
      this.#env[`XDG_${name}`] = this.#makeFolder(`home/${name}`);
    }
    // Or else it starts a virtlogd, which would stay.
    const settings = join(this.#makeFolder('home/CONFIG_HOME/libvirt'), 'qemu.conf');
    writeFileSync(settings, 'stdio_handler = "file"\n', { mode: 0o644 });
    const programs = this.#makeFolder('programs');
    symlinkSync(pathOf(EMULATOR), join(programs, EMULATOR));
    this.#process = startLibvirtd(this.#env, programs);
  }

  /** Resolves when it answers. */
  static async start(): Promise<Libvirt> {
    const libvirt = new Libvirt();
    try {
      await libvirt.#answers();
      return libvirt;
    } catch (error) {
      await libvirt.stop();
      throw error;
    }
  }

  /** What virsh prints; rejects when it fails. */
  async virsh(...words: string[]): Promise<string> {
    const [program, ...args] = [...AS_USER, 'virsh', '-q', '-c', 'qemu:///session', ...words];
    const { stdout } = await execa(program!, args, {
      ...{ env: this.#env, extendEnv: false, cwd: '/' },
      ...{ stdin: 'ignore', timeout: ANSWER_MILLIS_MAX },
    });
    return stdout.trim();
  }

  /** Ends its guests and itself, and removes all that it has written. */
  async stop(): Promise<void> {
    if (this.#process.exitCode === null) {
      const guests = await this.virsh('list', '--name').catch(() => '');
      for (const name of guests.split('\n').filter((line) => line !== '')) {
        await this.virsh('destroy', name);
      }
      this.#process.kill('SIGTERM');
    }
    await this.#process;
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** virsh would start another one, if there was no socket yet. */
  async #answers(): Promise<void> {
    const socket = join(this.#env.XDG_RUNTIME_DIR!, 'libvirt/libvirt-sock');
    const hasEnded = () => this.#process.exitCode !== null;
    await until(() => existsSync(socket) || hasEnded(), socket, ANSWER_MILLIS_MAX);
    if (hasEnded()) throw new Error(`libvirtd ended:\n${(await this.#process).all}`);
    await this.virsh('version');
  }

  #makeFolder(name: string): string {
    const path = join(this.folder, name);
    mkdirSync(path, { mode: 0o700 });
    if (isRoot) chownSync(path, NOBODY, NOBODY);
    return path;
  }
}
