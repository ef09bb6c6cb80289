/**
 * liblzo2 on a file of pages, timed by a small C program (bench-codec.c, compiled into .cache/), so
 * that no cost of calling it from here flatters us. Used by the benchmarks of the codec and of the
 * data path.
 */
import { spawn, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { CACHE_DIR } from './fetch.ts';

const SOURCE = fileURLToPath(new URL('./bench-codec.c', import.meta.url));
const BINARY = join(CACHE_DIR, 'bench-codec');

export type CodecOperation = 'compress' | 'decompress';

/** A codec and a corpus. */
export interface CodecSide {
  readonly compressedBytes: number;
  /** Does it to the corpus once; nanoseconds. */
  run(operation: CodecOperation): Promise<number>;
  close(): void;
}

export interface Liblzo2 extends CodecSide {
  /** The same, but nanoseconds of processor time: what others run meanwhile is not in it. */
  cpu(operation: CodecOperation): Promise<number>;
}

/** Throws where it cannot be built. */
export async function openLiblzo2(corpusFile: string): Promise<Liblzo2> {
  const gcc = spawnSync('gcc', ['-O2', SOURCE, '-o', BINARY, '-llzo2'], { encoding: 'utf8' });
  if (gcc.status !== 0) {
    throw new Error(
      `cannot build the liblzo2 side: apt-get install gcc libc6-dev liblzo2-dev\n${gcc.stderr ?? ''}`,
    );
  }
  const child = spawn(BINARY, [corpusFile], { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const ask = async (command: string) => {
    child.stdin.write(`${command}\n`);
    const answer = await lines.next();
    if (answer.done) throw new Error('bench-codec ended early');
    return (answer.value as string).split(' ').map(Number);
  };
  return {
    compressedBytes: (await ask('size'))[0]!,
    run: async (operation) => (await ask(`${operation[0]} 1`))[0]!,
    cpu: async (operation) => (await ask(`${operation[0]} 1`))[1]!,
    close: () => child.stdin.end(),
  };
}
