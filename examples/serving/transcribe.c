// SPDX-License-Identifier: Apache-2.0
// Transcribes words with a model that `Seq2Seq.export` wrote, through TensorFlow's C API, without Python:
//
//     transcribe SAVED_MODEL WORD...
//
// It prints a line for each word: the word, the output of the model and its log-probability, separated by tabs.
// README.md in this folder says how to build it.

#include <locale.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tensorflow/c/c_api.h>

static void fail(int status, const char *what, const char *detail) {
  fprintf(stderr, "transcribe: %s%s%.*s\n", what, *detail ? ": " : "", (int)strcspn(detail, "\n"), detail);
  exit(status);
}

static void check(const TF_Status *status, const char *what) {
  if (TF_GetCode(status) != TF_OK) fail(1, what, TF_Message(status));
}

// The names of inputs and outputs are in a message of Protocol Buffers, of which this reads the few fields it needs.
typedef struct {
  const uint8_t *data, *end;
} Message;

static uint64_t read_varint(Message *message) {
  uint64_t value = 0;
  for (int shift = 0; message->data < message->end && shift < 64; shift += 7) {
    uint8_t byte = *message->data++;
    value |= (uint64_t)(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  fail(1, "the SavedModel is damaged", "");
  return 0;
}

// Reads the next field: returns its number, or 0 at the end. The content of a string or message is in `value`.
static uint64_t read_field(Message *message, Message *value) {
  if (message->data == message->end) return 0;
  uint64_t tag = read_varint(message), type = tag & 7;
  uint64_t size = type == 0 ? (read_varint(message), 0) : type == 1 ? 8 : type == 5 ? 4 : read_varint(message);
  if (type > 5 || size > (uint64_t)(message->end - message->data)) fail(1, "the SavedModel is damaged", "");
  *value = (Message){message->data, message->data + size};
  message->data += size;
  return tag >> 3;
}

// Returns the value of a key in the map from strings to messages that is field `number`.
static Message look_up(Message message, uint64_t number, const char *key) {
  Message entry, name = {0}, value = {0};
  for (uint64_t field; (field = read_field(&message, &entry));) {
    if (field != number) continue;
    while ((field = read_field(&entry, &value))) {
      if (field == 1) name = value;
    }  // field 2, the last one, is the value
    size_t size = name.end - name.data;
    if (size == strlen(key) && !memcmp(name.data, key, size)) return value;
  }
  fail(1, "the SavedModel has no such signature, input or output", key);
  return value;
}

// Returns the tensor "operation:index" that a signature has under a name; 1 stands for its inputs, 2 for its outputs.
static TF_Output find_tensor(TF_Graph *graph, Message signature, uint64_t inputs_or_outputs, const char *key) {
  Message info = look_up(signature, inputs_or_outputs, key), name = {0};
  if (read_field(&info, &name) != 1) fail(1, "the SavedModel is damaged", key);
  char text[256];
  snprintf(text, sizeof text, "%.*s", (int)(name.end - name.data), (const char *)name.data);
  char *colon = strrchr(text, ':');
  if (colon) *colon = 0;
  TF_Output output = {TF_GraphOperationByName(graph, text), colon ? atoi(colon + 1) : 0};
  if (!output.oper) fail(1, "the SavedModel has no operation", text);
  return output;
}

int main(int argc, char **argv) {
  if (argc < 3) fail(2, "usage: transcribe SAVED_MODEL WORD...", "");
  if (!setlocale(LC_CTYPE, "C.UTF-8")) fail(1, "this system has no locale C.UTF-8", "");
  for (int i = 2; i < argc; ++i) {
    if (mbstowcs(NULL, argv[i], 0) == (size_t)-1) fail(2, "a word is not valid UTF-8", argv[i]);
  }
  setenv("TF_CPP_MIN_LOG_LEVEL", "3", 0);  // what fails is reported by `check`

  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  TF_Buffer *meta_graph = TF_NewBuffer();
  const char *tags[] = {"serve"};
  TF_Session *session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, meta_graph, status);
  check(status, argv[1]);

  const uint8_t *data = meta_graph->data;
  Message signature = look_up((Message){data, data + meta_graph->length}, 5, "serving_default");
  TF_Output input = find_tensor(graph, signature, 1, "inputs");
  TF_Output outputs[] = {
      find_tensor(graph, signature, 2, "text"),
      find_tensor(graph, signature, 2, "log_probabilities"),
  };

  int64_t count = argc - 2;
  TF_Tensor *words = TF_AllocateTensor(TF_STRING, &count, 1, count * sizeof(TF_TString)), *results[2];
  TF_TString *strings = TF_TensorData(words);
  for (int64_t i = 0; i < count; ++i) {
    TF_StringInit(&strings[i]);
    TF_StringCopy(&strings[i], argv[i + 2], strlen(argv[i + 2]));
  }
  TF_SessionRun(session, NULL, &input, &words, 1, outputs, results, 2, NULL, 0, NULL, status);
  check(status, "the model cannot transcribe these words");

  const TF_TString *texts = TF_TensorData(results[0]);
  const float *log_probabilities = TF_TensorData(results[1]);
  for (int64_t i = 0; i < count; ++i) {
    printf("%s\t%.*s\t%.4f\n", argv[i + 2], (int)TF_StringGetSize(&texts[i]), TF_StringGetDataPointer(&texts[i]),
           log_probabilities[i]);
    TF_StringDealloc(&strings[i]);
  }

  TF_DeleteTensor(words);
  for (int i = 0; i < 2; ++i) TF_DeleteTensor(results[i]);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteBuffer(meta_graph);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return fflush(stdout) || ferror(stdout) ? (perror("transcribe: stdout"), 1) : 0;
}
